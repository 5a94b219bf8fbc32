"""The conformance battery: what every task must fulfil, run over every task there is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from jaxvae import tasks
from jaxvae.data.loader import assemble
from jaxvae.data.plan import Plan
from jaxvae.health.ablation import LATENTS, ablate
from jaxvae.run import read_rows
from jaxvae.stats import compute, merge
from jaxvae.tasks.task import example_keys
from jaxvae.train.evaluate import Evaluator
from jaxvae.train.loop import train
from jaxvae.train.optim import optimizer_for
from jaxvae.train.sharding import make_mesh
from jaxvae.train.state import create_state
from jaxvae.train.step import loss_and_grads, make_train_step

pytestmark = [
    pytest.mark.parametrize("name", [*sorted(tasks.TASKS), "toy"]),
    pytest.mark.usefixtures("toys"),
]

# Parameters that get no gradient, with the reason: {task: {path: why}}.
NO_GRADIENT: dict[str, dict[str, str]] = {"glyph_vae": {}, "toy": {}}


class Bench:
    """A task with its data, a fresh state and the first batch."""

    def __init__(self, name, **changes):
        self.config = tiny_config(name, **changes)
        self.task = tasks.build(self.config)
        other_data = any(key.startswith(("data__", "model__")) for key in changes)
        self.sources = self.task.sources(lambda line: None) if other_data else load_sources(name)
        self.plan = Plan(self.sources["train"], self.config.data.batch_size, self.config.seed)
        self.rows = self.config.data.batch_size
        self.batch = assemble(self.plan, self.plan.batch(0), self.rows)
        self.optimizer = optimizer_for(self.task, self.config, self.batch, 10)
        statistics = self.task.statistics(self.sources)
        self.state = jax.jit(lambda: create_state(self.task, self.optimizer, self.config, statistics, self.batch))()

    def step(self):
        return jax.jit(make_train_step(self.task, self.optimizer, self.config))

    def evaluator(self, batch_size, rows):
        return Evaluator(self.task, self.sources["val"], batch_size, rows, 1, make_mesh(self.config), self.config)

    def draws(self, batch):
        return self.task.draws(example_keys(jax.random.key(0), jnp.arange(len(batch["valid"]))), batch)

    def loss_and_grads(self, batch, draws=None, totals=None):
        run = jax.jit(functools.partial(loss_and_grads, self.task))
        draws = self.draws(batch) if draws is None else draws
        return run(self.state, batch, draws, totals, 1)[:3]


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
        assert np.abs(np.asarray(g) - np.asarray(w)).max() <= bound, f"{what}{jax.tree_util.keystr(path)}"


def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(name):
    grads, terms, _ = bench(name).loss_and_grads(bench(name).batch)
    assert all(np.isfinite(value) for value in terms.values())
    silent = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(leaf).max() > 0
    }
    assert silent == NO_GRADIENT[name].keys()


def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(name):
    step, state, losses = bench(name).step(), bench(name).state, []
    for _ in range(30):
        state, stats = step(state, bench(name).batch)
        losses.append(float(compute(stats)["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_a_step_compiles_once_per_capacity(name):
    step, state, plan = bench(name).step(), bench(name).state, bench(name).plan
    seen = set()
    for index in range(2 * plan.steps_per_epoch):
        seen.add(plan.batch(index).capacity)
        state, _ = step(state, assemble(plan, plan.batch(index), bench(name).rows))
    assert step._cache_size() == len(seen)


@pytest.mark.parametrize("accum", [2, 4])
def test_micro_batches_equal_one_batch(name, accum):
    b = bench(name)
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


def test_padding_changes_nothing(name):
    b = bench(name)
    half = b.rows // 2
    valid = np.arange(b.rows) < half
    batch = dict(b.batch, valid=valid)
    draws = b.draws(batch)
    grads, terms, stats = b.loss_and_grads(batch, draws)
    # Other padding: the examples in the masked rows are exchanged and spoiled.
    other = {k: np.concatenate([v[:half], np.zeros_like(v[half:])]) for k, v in batch.items() if k != "valid"}
    noise = jax.tree.map(lambda d: d.at[half:].set(7.0) if d.dtype.kind == "f" else d, draws)
    grads2, terms2, stats2 = b.loss_and_grads(dict(other, valid=valid), noise)
    close(terms2, terms, 1e-6)
    close(compute(stats2), compute(stats), 1e-6)
    close(grads2, grads, 1e-5)
    # And none at all.
    short = {k: v[:half] for k, v in batch.items()}
    grads3, terms3, stats3 = b.loss_and_grads(short, jax.tree.map(lambda d: d[:half], draws))
    close(terms3, terms, 1e-5)
    close(compute(stats3), compute(stats), 1e-5)
    close(grads3, grads, 1e-4)


def test_evaluation_does_not_depend_on_how_the_set_is_cut(name):
    b = bench(name)
    variables, key, results = b.state.variables(), b.state.key, []
    for batch_size in (3, 8):
        evaluator = b.evaluator(batch_size, 8)
        results.append(evaluator.evaluate(variables, key, 0))
        seen = np.concatenate([np.asarray(x["index"])[np.asarray(x["valid"])] for x in evaluator.batches()])
        assert sorted(seen) == list(range(len(b.sources["val"]))), "each example exactly once"
    assert results[0].keys() == results[1].keys()
    for metric, value in results[0].items():
        assert value == pytest.approx(results[1][metric], rel=1e-4, abs=1e-5), metric


def test_bfloat16_stays_near_float32(name):
    b = bench(name)
    half = Bench(name, precision__compute="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half.state.params))
    _, exact, _ = b.loss_and_grads(b.batch)
    grads, rough, _ = half.loss_and_grads(half.batch)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
    assert float(rough["loss"]) == pytest.approx(float(exact["loss"]), rel=0.03)
    assert float(rough["loss"]) != float(exact["loss"]), "bfloat16 changed nothing: is it used?"


def test_float16_trains_where_the_task_allows_it(name):
    """The first updates may be skipped: the loss scale has to come down to what the gradients allow."""
    if tasks.TASKS[name].float16_unsafe:
        pytest.skip(tasks.TASKS[name].float16_unsafe)
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
        found.append(ablate(b.task, variables, evaluator.pairs(), key))
        for batch, other in evaluator.pairs():
            valid = np.asarray(batch["valid"] & other["valid"])
            assert (np.asarray(batch["index"]) != np.asarray(other["index"]))[valid].all(), "a z of its own"
    for z in LATENTS:
        for metric, value in found[0][z].items():
            assert np.isfinite(value)
            for other in found[1:]:
                assert other[z][metric] == pytest.approx(value, rel=1e-4, abs=1e-5), (z, metric)


def test_another_example_has_another_latent(name):
    b = bench(name)
    (batch, other), *_ = b.evaluator(4, 4).pairs()
    reconstruct = jax.jit(b.task.reconstruct)
    latents = jax.jit(lambda v, batch: b.task.latents(v, batch, b.draws(batch), "mean"))
    variables = b.state.variables()
    own, exchanged = (reconstruct(variables, batch, latents(variables, x)) for x in (batch, other))
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), own, exchanged)
    assert any(jax.tree.leaves(differ)), "the latents of another batch change nothing at all"


def test_a_run_continues_bit_for_bit(name, tmp_path):
    def run(folder, **changes):
        constant = {"optim__schedule__name": "constant", "train__log_every": 2, "train__save_every": 3}
        return train(tiny_config(name, **constant, **changes), tmp_path / folder)

    def rows(run):
        """Without times, and without the evaluation that only the last step of the shorter run had."""
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_rows(run.metrics_path)]

    straight = run("straight")
    # Stopped in the middle of a logging interval, whose sums the checkpoint carries.
    run("halved", train__total_steps=3)
    assert rows(run("halved")) == rows(straight)
    assert [row["step"] for row in rows(straight)] == [0, 2, 3, 4, 6]
    assert straight.folder.joinpath("report.md").exists()
    assert list((straight.folder / "samples").glob("*.png"))


def test_four_devices_equal_one(name, run_python):
    code = """
import sys; sys.path.insert(0, "tests")
import jax, numpy as np
from test_tasks import Bench
from jaxvae.stats import compute
from jaxvae.train.sharding import batch_sharding, make_mesh, put, replicated, state_shardings
from jaxvae.train.step import make_train_step

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
    print(repr(float(compute(stats)["loss"])), repr(float(compute(stats)["grad_norm"])))
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
