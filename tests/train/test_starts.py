"""Where weights come from: another run, by name; and which of them stay as they are."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from folders import contents
from test_tasks import Bench
from tiny import tiny_config

from jaxvae.errors import UserError
from jaxvae.stats import compute
from jaxvae.tasks.task import example_keys
from jaxvae.train.build import build
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.init_from import init_from
from jaxvae.train.loop import train
from jaxvae.train.patterns import by_name
from jaxvae.train.setup import prepare
from jaxvae.train.state import TRAIN

pytestmark = pytest.mark.usefixtures("toys")


def toy_config(**changes):
    return tiny_config("toy", **{"train__sample_every": 0, "train__eval_every": 0} | changes)


def equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


# Frozen parameters


def test_frozen_parameters_take_part_in_nothing():
    everything = {
        "optim__weight_decay": 0.5,
        "optim__decay_on": "all",
        "optim__clip__norm": 1e-3,
        "optim__ema__average__decay": 0.5,
    }
    free = Bench("toy", **everything)
    b = Bench("toy", **everything, optim__freeze="^inner/, embedding$")
    frozen = {"inner/kernel", "inner/bias", "kind/embedding", "slot/embedding"}
    assert by_name(b.state.frozen).keys() == frozen
    assert by_name(b.state.params).keys() == by_name(free.state.params).keys() - frozen
    equal(b.state.variables(), free.state.variables())
    # Neither moments nor averages.
    for kept in (b.state.opt_state, b.state.ema):
        assert not [name for name in by_name(kept) for leaf in frozen if leaf in name]

    step, state = b.step(), b.state
    grads, *_ = free.loss_and_grads(b.batch, b.task.draws(first_keys(b), b.batch))
    trained = [g for name, g in by_name(grads).items() if name not in frozen]
    for i in range(3):
        state, stats = step(state, b.batch)
        if i == 0:
            assert compute(stats)["grad_norm"] == pytest.approx(float(optax.tree.norm(trained)), rel=1e-5)
            assert compute(stats)["grad_norm"] < 0.99 * float(optax.tree.norm(grads))
    equal(state.frozen, b.state.frozen)
    for weights in ("raw", "average"):
        assert by_name(state.variables(weights)["params"]).keys() == by_name(free.state.params).keys()
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, b.state.params)
    assert all(jax.tree.leaves(changed))


def first_keys(b):
    """The keys of the examples at the first update."""
    return example_keys(jax.random.fold_in(jax.random.fold_in(b.state.key, TRAIN), 0), jnp.arange(b.rows))


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        ("^inner/, nothing", "config.optim.freeze: 'nothing' matches no parameter: there are head/bias"),
        ("inner,(", "config.optim.freeze: '(' is not a regular expression"),
        (".", "config.optim.freeze = '.': leaves no parameter to train"),
    ],
)
def test_patterns_that_cannot_freeze(freeze, words):
    with pytest.raises(UserError, match=re.escape(words)):
        build(toy_config(optim__freeze=freeze), lambda line: None)


# Weights of another run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of four updates with checkpoints at 2 and 4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxvae.train.loop.write_report", lambda setup: "nowhere")
        config = toy_config(train__total_steps=4, train__save_every=2)
        return train(config, tmp_path_factory.mktemp("source") / "run").folder


@pytest.fixture(scope="module")
def saved(source):
    """States with the weights of the source's checkpoints, by step."""
    parts, checkpoints = build(toy_config(), lambda line: None), Checkpoints(source / "checkpoints")
    weights = {name: getattr(parts.like, name) for name in ("params", "ema", "collections")}
    return {step: parts.create().replace(**checkpoints.read(step, weights)) for step in checkpoints.steps()}


def start(**changes):
    """(fresh state, state after `init_from`, the line that it says) of a toy with these changes."""
    parts = build(toy_config(**changes), lambda line: None)
    fresh = parts.create()
    return fresh, *init_from(fresh, parts.config)


def test_a_run_gives_its_newest_weights_and_nothing_else(source, saved):
    fresh, state, line = start(init_from__path=str(source), seed=7)
    assert line.startswith(f"starts from {source}/checkpoints/4 (raw weights): ") and line.endswith("arrays taken")
    equal(state.params, saved[4].params)
    equal(state.ema["average"], saved[4].params)
    equal(state.collections["codebook"], saved[4].collections["codebook"])
    equal(state.collections["averages"], saved[4].collections["averages"])
    equal((state.opt_state, state.step, state.updates), (fresh.opt_state, 0, 0))
    assert (jax.random.key_data(state.key) == jax.random.key_data(fresh.key)).all()
    # The average does not share its buffers, so the first step can take both.
    assert not {x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.params)} & {
        x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.ema)
    }


def test_statistics_are_those_of_the_own_data(source):
    _, state, _ = start(init_from__path=str(source), data__examples=24)
    assert state.collections["statistics"]["examples"] == 24


def test_a_checkpoint_and_an_average_can_be_chosen(source, saved):
    _, state, line = start(init_from__path=f"{source}/checkpoints/2", init_from__weights="average")
    assert f"{source}/checkpoints/2 (average weights)" in line
    equal(state.params, saved[2].ema["average"])
    assert not jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), state.params, saved[2].params))


def test_frozen_weights_are_taken_too(source, saved):
    _, state, _ = start(init_from__path=str(source), init_from__weights="average", optim__freeze="^inner/")
    equal(state.frozen["inner"], saved[4].ema["average"]["inner"])
    assert "inner" not in state.ema["average"]


@pytest.fixture
def other(source, saved, tmp_path):
    """Saves a checkpoint of the source's state after a change, and gives its path."""

    def save(**changes):
        checkpoints = Checkpoints(tmp_path / "other" / "checkpoints")
        checkpoints.save(1, saved[4].replace(**changes), {})
        checkpoints.close()
        return str(tmp_path / "other")

    return save


def test_a_run_with_frozen_weights_gives_them_with_its_average(other, saved):
    raw, average = dict(saved[4].params), dict(saved[4].ema["average"])
    inner = raw.pop("inner")
    average.pop("inner")
    path = other(params=raw, frozen={"inner": inner}, ema={"average": average})
    _, state, _ = start(init_from__path=path, init_from__weights="average")
    equal(state.params, average | {"inner": inner})


def test_names_are_mapped_and_allowed_to_be_missing(other, saved):
    params = dict(saved[4].params)
    head = params.pop("head")
    path = other(params={"old": {"body": params}, "spare": {"kernel": head["kernel"]}}, ema={})
    fresh, state, line = start(
        seed=7, init_from__path=path, init_from__map="^old/=>,^body/(.*)=>\\1", init_from__allow="^head/, ^spare"
    )
    assert line.endswith("arrays taken, 2 fresh, 1 of its own unused")
    equal({name: x for name, x in state.params.items() if name != "head"}, params)
    equal(state.params["head"], fresh.params["head"])
    assert not (state.params["head"]["kernel"] == head["kernel"]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "/nowhere"}, "config.init_from.path = '/nowhere' is no run with checkpoints"),
        (
            {"path": "{source}/checkpoints/3"},
            "no such checkpoint; {source}/checkpoints has those of steps 2, 4",
        ),
        ({"weights": "fast"}, "config.init_from.weights = 'fast': that run kept raw, average"),
        ({"map": "^nothing=>some"}, "config.init_from.map: '^nothing=>some' changes no name: there are "),
        ({"map": "inner"}, "config.init_from.map: 'inner' is no rule (there is no '=>' in it)"),
        ({"map": "(=>x"}, "config.init_from.map: '(=>x' is no rule ("),
        ({"map": "^inner=>\\g<its>"}, "is no rule (unknown group name 'its')"),
        ({"allow": "^nothing"}, "config.init_from.allow: '^nothing' matches no array without a counterpart"),
        ({"map": "inner=>out"}, "config.init_from.map: 'inner=>out' gives two arrays one name"),
        (
            {"map": "^inner/=>begin/"},
            "no counterpart in {source}/checkpoints/4 for inner/bias, inner/kernel: ",
        ),
        ({"map": "^inner/=>begin/", "allow": "inner"}, "no counterpart here for begin/bias, begin/kernel"),
        ({"map": "^=>theirs/", "allow": "."}, "{source}/checkpoints/4 has no name in common"),
        ({"allow": "("}, "config.init_from.allow: '(' is not a regular expression"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_starts_that_cannot_be_meant(source, changes, words):
    changes = {"path": "{source}"} | changes
    given = {f"init_from__{key}": value.replace("{source}", str(source)) for key, value in changes.items()}
    with pytest.raises(UserError, match=re.escape(words.replace("{source}", str(source)))):
        start(**given)


def test_another_shape_is_refused(source):
    with pytest.raises(UserError, match=r"head/kernel is float32\[8, 4\] in .* and float32\[6, 4\] here, and \d+ more"):
        start(init_from__path=str(source), model__width=6)


def test_a_run_without_checkpoints_is_refused_and_leaves_no_trace(tmp_path, source):
    empty = shutil.copytree(source, tmp_path / "empty")
    shutil.rmtree(empty / "checkpoints")
    before = contents(tmp_path)
    for folder in (empty, empty / "checkpoints" / "4"):
        with pytest.raises(UserError, match="is no run with checkpoints"):
            prepare(toy_config(init_from__path=str(folder)), tmp_path / "run")
        assert contents(tmp_path) == before
    (empty / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"there is no such checkpoint; .* has none"):
        prepare(toy_config(init_from__path=str(empty)), tmp_path / "run")


def test_a_damaged_checkpoint_is_refused(tmp_path, source):
    run = shutil.copytree(source, tmp_path / "run")
    for file in (run / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
    with pytest.raises(UserError, match=r"init_from\.path = .*: checkpoint 4 is damaged"):
        start(init_from__path=str(run))


def test_a_second_stage_goes_on_from_its_own_checkpoint(tmp_path, source, monkeypatch, capsys):
    monkeypatch.setattr("jaxvae.train.loop.write_report", lambda setup: "nowhere")
    first = shutil.copytree(source, tmp_path / "first")
    config = {"init_from__path": str(first), "optim__freeze": "^inner/", "train__save_every": 2}
    train(toy_config(**config, train__total_steps=2), tmp_path / "second")
    said = capsys.readouterr().out
    assert f"starts from {first}/checkpoints/4" in said
    compiled = re.findall(r"compiled the step for examples of up to (\(.*?\))", said)
    assert len(compiled) == len(set(compiled)), "weights from elsewhere look like those that a step returns"
    shutil.rmtree(first)  # no longer needed
    setup = prepare(toy_config(**config, train__total_steps=4), tmp_path / "second")
    setup.lock.close()
    assert int(setup.state.step) == 2
    assert not [line for line in setup.notes if "starts from" in line]
