"""The conformance battery: what every task must fulfil, run over every task there is, and over the toy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from half import delicate_in_half
from reads import dead, reads
from tiny import VARIANTS, tiny_config

from jaxvae import tasks
from jaxvae.data.loader import assemble
from jaxvae.data.plan import Plan
from jaxvae.errors import UserError
from jaxvae.health.ablation import LATENT_NAMES, latent_scores
from jaxvae.nn.barriers import compiler_options
from jaxvae.run import read_rows
from jaxvae.stats import compute, merge, scalars
from jaxvae.tasks.task import example_keys
from jaxvae.train.build import build
from jaxvae.train.compilations import Compilations
from jaxvae.train.dispatch import Dispatch
from jaxvae.train.evaluate import Evaluator, with_draws
from jaxvae.train.loop import train
from jaxvae.train.optim import optimizer_for
from jaxvae.train.patterns import by_name
from jaxvae.train.sharding import make_mesh, state_shardings
from jaxvae.train.state import create_state
from jaxvae.train.step import loss_and_grads, make_train_step

pytestmark = [
    pytest.mark.parametrize("name", [*sorted(tasks.TASKS), *VARIANTS, "toy"]),
    pytest.mark.usefixtures("toys"),
]

# Parameters that get no gradient, with the reason: {task: {path: why}}.
NO_GRADIENT: dict[str, dict[str, str]] = {"glyph_vae": {}, "glyph_vae_writing": {}, "toy": {}}


class Bench:
    """A task with its data, a fresh state and the first batch."""

    def __init__(self, name, **changes):
        self.config = tiny_config(name, **changes)
        self.task = tasks.build(self.config)
        other_data = any(key.startswith(("data__", "model__")) for key in changes)
        self.sources = self.task.sources(lambda line: None) if other_data else load_sources(name)
        self.plan = Plan(self.sources["train"], self.config.data.batch_size, self.config.seed)
        self.rows = self.config.data.batch_size
        self.compilations = Compilations()
        self.batch = assemble(self.plan, self.plan.batch(0), self.rows)
        self.optimizer = optimizer_for(self.task, self.config, self.batch, 10)
        statistics = self.task.statistics(self.sources)
        self.state = jax.jit(lambda: create_state(self.task, self.optimizer, self.config, statistics, self.batch))()

    def step(self):
        return jax.jit(make_train_step(self.task, self.optimizer, self.config))

    @functools.cached_property
    def dispatch(self):
        """As a training has it; what it is handed is donated."""
        step = make_train_step(self.task, self.optimizer, self.config)
        return Dispatch(step, make_mesh(self.config), self.shardings(), compiler_options(), self.compilations)

    def own_state(self):
        """A copy that may be donated."""
        return jax.device_put(jax.tree.map(jnp.copy, self.state), self.shardings())

    def shardings(self):
        return state_shardings(make_mesh(self.config), self.state)

    def evaluator(self, batch_size, rows):
        source, mesh = self.sources["val"], make_mesh(self.config)
        return Evaluator(self.task, source, batch_size, rows, 1, mesh, self.config, Compilations())

    def draws(self, batch):
        return self.task.draws(example_keys(jax.random.key(0), jnp.arange(len(batch["valid"]))), batch)

    def loss_and_grads(self, batch, draws=None, totals=None):
        run = jax.jit(functools.partial(loss_and_grads, self.task))
        draws = self.draws(batch) if draws is None else draws
        return run(self.state, batch, draws, totals, 1)


@functools.cache
def load_sources(name):
    return tasks.build(tiny_config(name)).sources(lambda line: None)


@functools.cache
def bench(name):
    return Bench(name)


def close(got, want, rtol=1e-5, what=""):
    """Equal up to `rtol` of each array's largest magnitude."""
    for path, g in jax.tree_util.tree_leaves_with_path(got):
        w = functools.reduce(lambda tree, key: tree[getattr(key, "key", getattr(key, "idx", None))], path, want)
        bound = rtol * max(float(np.abs(w).max()), 1e-3)
        assert np.abs(np.asarray(g, float) - np.asarray(w, float)).max() <= bound, f"{what}{jax.tree_util.keystr(path)}"


def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(name):
    grads, terms, *_ = bench(name).loss_and_grads(bench(name).batch)
    assert all(np.isfinite(value) for value in terms.values())
    silent = {path for path, leaf in by_name(grads).items() if not np.abs(leaf).max() > 0}
    assert silent == NO_GRADIENT[name].keys()


def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(name):
    b, losses = bench(name), []
    state = b.own_state()
    for _ in range(30):
        state, stats, _ = b.dispatch(state, range(1), b.batch)
        losses.append(float(compute(stats)["loss"]))
    assert losses[-1] < 0.9 * losses[0]
    # Nothing is frozen unless one asks for it.
    assert not state.frozen
    still = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, same in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(np.array_equal, state.params, b.state.params)
        )
        if same
    ]
    assert set(still) <= NO_GRADIENT[name].keys()


def test_a_step_compiles_once_per_capacity(name):
    b, seen = bench(name), set()
    state = b.own_state()
    for index in range(2 * b.plan.steps_per_epoch):
        seen.add(b.plan.batch(index).capacity)
        batch = assemble(b.plan, b.plan.batch(index), b.rows)
        state, *_ = b.dispatch(state, range(index, index + 1), batch)
    assert b.compilations.count == len(seen)


def test_random_numbers_belong_to_examples(name):
    b = bench(name)
    keys = example_keys(jax.random.key(0), jnp.arange(b.rows))
    draws = b.task.draws(keys, b.batch)
    assert all(len(leaf) == b.rows for leaf in jax.tree.leaves(draws))
    # Of others in the batch, or how many there are, an example's do not know.
    some = b.task.draws(keys[1:3], {key: value[1:3] for key, value in b.batch.items()})
    close(some, jax.tree.map(lambda x: x[1:3], draws), 1e-6)


@pytest.mark.parametrize("accum", [2, 4])
def test_micro_batches_equal_one_batch(name, accum):
    b = bench(name)
    if b.task.batch_coupled:
        with pytest.raises(UserError, match=re.escape(b.task.batch_coupled)):
            build(tiny_config(name, optim__accum=accum), lambda line: None)
        return
    # Ragged on purpose: one example is missing from the last micro-batch.
    batch = dict(b.batch, valid=np.arange(b.rows) < b.rows - 1)
    config = tiny_config(name, optim__accum=accum, optim__name="sgd", optim__clip__norm=0.0)
    whole = tiny_config(name, optim__name="sgd", optim__clip__norm=0.0)
    sgd = optimizer_for(b.task, whole, b.batch, 10)
    state = b.state.replace(opt_state=sgd.transformation.init(b.state.params))
    results = [jax.jit(make_train_step(b.task, sgd, c))(state, batch) for c in (whole, config)]
    (one, one_stats), (many, many_stats) = results
    close(compute(many_stats), compute(one_stats), 2e-5, "statistics ")
    moved = [jax.tree.map(lambda a, b: a - b, s.params, state.params) for s in (one, many)]
    close(moved[1], moved[0], 1e-4, "update ")
    close(many.collections, one.collections, 1e-5, "collections ")


def test_padding_changes_nothing(name):
    b = bench(name)
    half = b.rows // 2
    valid = np.arange(b.rows) < half
    batch = dict(b.batch, valid=valid)
    draws = b.draws(batch)
    want = b.loss_and_grads(batch, draws)
    # Other padding: the examples in the masked rows are exchanged and spoiled.
    other = {k: np.concatenate([v[:half], np.zeros_like(v[half:])]) for k, v in batch.items() if k != "valid"}
    noise = jax.tree.map(lambda d: d.at[half:].set(7.0) if d.dtype.kind == "f" else d, draws)
    same_pass(b.loss_and_grads(dict(other, valid=valid), noise), want, 1e-6)
    # And none at all.
    short = {k: v[:half] for k, v in batch.items()}
    same_pass(b.loss_and_grads(short, jax.tree.map(lambda d: d[:half], draws)), want, 1e-5)


def same_pass(got, want, rtol):
    """Gradients (to ten times as much), terms, statistics and additions of one pass and another."""
    for what, a, b in zip(("gradients", "terms", "statistics", "additions"), got, want, strict=True):
        a, b = (compute(a), compute(b)) if what == "statistics" else (a, b)
        close(a, b, 10 * rtol if what == "gradients" else rtol, f"{what} ")


def test_evaluation_does_not_depend_on_how_the_set_is_cut(name):
    b = bench(name)
    variables, key, results = b.state.variables(), b.state.key, []
    for batch_size in (3, 8):
        evaluator = b.evaluator(batch_size, 8)
        results.append(evaluator.evaluate(variables, key, 0))
        seen = np.concatenate([np.asarray(x["index"])[np.asarray(x["valid"])] for _, x in evaluator.batches()])
        assert sorted(seen) == list(range(len(b.sources["val"]))), "each example exactly once"
    assert results[0].keys() == results[1].keys()
    for metric, value in results[0].items():
        assert value == pytest.approx(results[1][metric], rel=1e-4, abs=1e-5), metric


@pytest.mark.parametrize("compute_type", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(name, compute_type):
    b = bench(name)
    keys = {"precision__compute": compute_type, "precision__loss_scale__init": 256.0}
    if compute_type == "float16" and b.task.float16_unsafe:
        with pytest.raises(UserError, match=re.escape(b.task.float16_unsafe)):
            build(tiny_config(name, **keys), lambda line: None)
        return
    half = Bench(name, **keys)
    assert not [x.dtype for x in jax.tree.leaves(half.state) if x.dtype in (jnp.bfloat16, jnp.float16)]
    _, exact, *_ = b.loss_and_grads(b.batch)
    grads, rough, *_ = half.loss_and_grads(half.batch)
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert float(rough["loss"]) == pytest.approx(float(exact["loss"]), rel=0.03)
    assert float(rough["loss"]) != float(exact["loss"]), f"{compute_type} changed nothing: is it used?"


def test_half_precision_is_for_products_alone(name):
    half = Bench(name, precision__compute="bfloat16")
    step = make_train_step(half.task, half.optimizer, half.config)
    assert not delicate_in_half(step, half.state, half.batch)
    variables, draws = half.state.variables(), half.draws(half.batch)
    assert not delicate_in_half(half.task.evaluate, variables, half.batch, draws, 0)


@pytest.mark.parametrize("how", ["default", "highest"])
def test_products_are_as_precise_as_asked_for(name, how):
    b = bench(name)
    config = tiny_config(name, precision__products=how)
    evaluate = with_draws(b.task, b.task.evaluate, config)
    programs = [
        jax.jit(make_train_step(b.task, b.optimizer, config)).lower(b.state, b.batch),
        jax.jit(evaluate).lower(b.state.variables(), b.batch, b.state.key, 0),
    ]
    for program in programs:
        found = [line for line in program.as_text().splitlines() if re.search(r"\.(dot_general|convolution)\b", line)]
        precise = ["[HIGHEST, HIGHEST]" in line for line in found]
        assert found and (all(precise) if how == "highest" else not any(precise))


def test_float16_trains_where_the_task_allows_it(name):
    """The first updates may be skipped: the loss scale has to come down to what the gradients allow."""
    if bench(name).task.float16_unsafe:
        pytest.skip(bench(name).task.float16_unsafe)
    half = Bench(name, precision__compute="float16")
    step, state, skipped = half.step(), half.state, 0.0
    for _ in range(12):
        state, stats = step(state, half.batch)
        skipped += float(stats["skipped"].compute())
    assert 0 < int(state.updates) == 12 - skipped
    assert np.isfinite(stats["loss"].compute())
    assert float(state.loss_scale["scale"]) == half.config.precision.loss_scale.init * 0.5**skipped


def test_pictures(name):
    b = bench(name)
    draws = b.draws(b.batch)
    pictures = jax.jit(b.task.show)(b.state.variables(), b.batch, draws)
    assert pictures.keys() == b.task.captions.keys()
    for picture in pictures.values():
        picture = np.asarray(picture)
        assert picture.ndim in (2, 3) and picture.min() >= 0 and picture.max() <= 1
        assert picture.std() > 0, "an empty picture shows nothing"


def test_latents_are_ablated_alike_however_the_set_is_cut(name):
    b = bench(name)
    variables, key, found = b.state.variables(), b.state.key, []
    # The second with padding in the last batch, the third with nothing but one example in each.
    for batch_size, rows in ((4, 4), (3, 8), (1, 1)):
        evaluator = b.evaluator(batch_size, rows)
        totals = evaluator.sum_pairs("the ablation", functools.partial(latent_scores, b.task), variables, key)
        found.append({z: scalars(totals[z]) for z in LATENT_NAMES})
        assert evaluator.compilations.count == len({capacity for capacity, *_ in evaluator.pairs()})
        for _, batch, other in evaluator.pairs():
            valid = np.asarray(batch["valid"] & other["valid"])
            assert (np.asarray(batch["index"]) != np.asarray(other["index"]))[valid].all(), "a z of its own"
    for z in LATENT_NAMES:
        for metric, value in found[0][z].items():
            assert np.isfinite(value)
            for other in found[1:]:
                assert other[z][metric] == pytest.approx(value, rel=1e-4, abs=1e-5), (z, metric)


def test_another_example_has_another_latent(name):
    b = bench(name)
    (_, batch, other), *_ = b.evaluator(4, 4).pairs()
    reconstruct = jax.jit(b.task.reconstruct)
    latents = jax.jit(lambda v, batch: b.task.latents(v, batch, b.draws(batch), "mean"))
    variables = b.state.variables()
    own, exchanged = (reconstruct(variables, batch, latents(variables, x)) for x in (batch, other))
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), own, exchanged)
    assert any(jax.tree.leaves(differ)), "the latents of another batch change nothing at all"


@pytest.fixture
def in_full(name, request):
    """For tests that take a minute: with --slow alone they are made of other forms of a task too."""
    if name in VARIANTS and not request.config.getoption("slow"):
        pytest.skip("slow for a variant: runs with --slow (bash scripts/test.sh --all)")


CONSTANT = {"optim__schedule__name": "constant", "train__log_every": 2, "train__save_every": 3}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """name -> (a run from start to end, its configuration, the keys of it that were read); made once."""

    @functools.cache
    def make(name):
        config = tiny_config(name, **CONSTANT)
        with reads(config) as found:
            run = train(config, tmp_path_factory.mktemp(name) / "straight")
        return run, config, found

    return make


@pytest.mark.usefixtures("in_full")
def test_a_run_continues_bit_for_bit(name, straight, tmp_path):
    def rows(run):
        """Without times, and without the evaluation that only the last step of the shorter run had."""
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_rows(run.metrics_path)]

    whole, *_ = straight(name)
    # Stopped in the middle of a logging interval, whose sums the checkpoint carries.
    train(tiny_config(name, **CONSTANT, train__total_steps=3), tmp_path / "halved")
    assert rows(train(tiny_config(name, **CONSTANT), tmp_path / "halved")) == rows(whole)
    assert [row["step"] for row in rows(whole)] == [0, 2, 3, 4, 6]
    assert whole.folder.joinpath("report.md").exists()
    assert list((whole.folder / "samples").glob("*.png"))


@pytest.mark.usefixtures("in_full")
def test_no_key_is_dead(name, straight):
    _, config, found = straight(name)
    assert not dead(config, found)


@pytest.mark.usefixtures("in_full")
def test_four_devices_equal_one(name, run_python):
    code = """
import sys; sys.path.insert(0, "tests")
import jax, numpy as np
from test_tasks import Bench
from toy import among_tasks
from jaxvae.stats import compute
from jaxvae.train.sharding import batch_sharding, make_mesh, put, replicated, state_shardings
from jaxvae.train.step import make_train_step

with among_tasks():
    b = Bench({name!r}, optim__name="sgd", optim__clip__norm=0.0, optim__accum={accum}, parallel__fsdp={fsdp})
mesh = make_mesh(b.config)
shardings = state_shardings(mesh, b.state)
step = jax.jit(
    make_train_step(b.task, b.optimizer, b.config),
    in_shardings=(shardings, batch_sharding(mesh)), out_shardings=(shardings, replicated(mesh)),
)
state = jax.device_put(b.state, shardings)
for i in range(3):
    state, stats = step(state, put(b.batch, batch_sharding(mesh)))
    own = sum(float(abs(x).sum()) for x in jax.tree.leaves(state.collections))
    print(repr(float(compute(stats)["loss"])), repr(float(compute(stats)["grad_norm"])), repr(own))
"""

    def numbers(devices, fsdp, accum=1):
        found = run_python(code.format(name=name, fsdp=fsdp, accum=accum), devices=devices)
        assert found.returncode == 0, found.stderr[-2000:]
        return np.array([line.split() for line in found.stdout.splitlines()[-3:]], float)

    alone = numbers(1, 1)
    np.testing.assert_allclose(numbers(4, 1), alone, rtol=1e-5)
    np.testing.assert_allclose(numbers(4, 2, accum=2), alone, rtol=1e-5)


def test_statistics_merge(name):
    """Merged over two halves they equal those of the whole."""
    b = bench(name)
    evaluate = jax.jit(b.task.evaluate)
    draws = b.draws(b.batch)
    whole = evaluate(b.state.variables(), b.batch, draws, 0)
    parts = [
        evaluate(b.state.variables(), dict(b.batch, valid=np.arange(b.rows) % 2 == half), draws, 0) for half in (0, 1)
    ]
    merged, whole = b.task.summarize(merge(*parts)), b.task.summarize(whole)
    for metric, value in whole.items():
        assert merged[metric] == pytest.approx(value, rel=1e-4, abs=1e-5), metric
