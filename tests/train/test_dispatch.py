"""Updates that are sent to the device in blocks."""

import itertools
import os
import re
import signal

import numpy as np
import pytest
from test_tasks import close
from tiny import tiny_config

from jaxvae.data.loader import Loader, blocks, single_steps
from jaxvae.errors import UserError
from jaxvae.run import read_rows
from jaxvae.stats import compute, merge
from jaxvae.train.build import build
from jaxvae.train.dispatch import Dispatch
from jaxvae.train.loop import train

pytestmark = pytest.mark.usefixtures("toys")

SIZE = 3


def toy_config(**changes):
    intervals = {"train__eval_every": 0, "train__sample_every": 0, "train__log_every": 6}
    return tiny_config("toy", **{"train__steps_per_dispatch": SIZE, "data__examples": 100} | intervals | changes)


@pytest.fixture(scope="module")
def parts():
    return build(toy_config(), lambda line: None)


@pytest.fixture(scope="module")
def dispatch(parts):
    return parts.dispatch()


def sent(parts, dispatch, steps):
    """(state, summed statistics) of the updates in these blocks from a fresh state."""
    state, total = parts.create(), None
    for block, batch in Loader(parts.plan, parts.rows, steps, 1):
        state, stats, _ = dispatch(state, block, batch)
        total = stats if total is None else merge(total, stats)
    return state, compute(total)


def test_blocks_give_the_losses_of_single_updates_and_compile_once_per_capacity_and_size(parts, dispatch):
    stop = parts.plan.steps_per_epoch
    in_blocks = list(blocks(parts.plan, 0, stop, SIZE, []))
    assert {len(block) for block in in_blocks} == {1, SIZE}
    got = sent(parts, dispatch, in_blocks)
    programs = {(parts.plan.batch(block.start).capacity, len(block)) for block in in_blocks}
    assert parts.compilations.count == len(programs) > 2

    want = sent(parts, dispatch, single_steps(0, stop))
    close(got[1], want[1], 1e-5, "statistics ")
    for part in ("params", "ema", "collections"):
        close(getattr(got[0], part), getattr(want[0], part), 1e-4, part)
    assert (got[0].step, got[0].updates) == (want[0].step, want[0].updates) == (stop, stop)
    programs |= {(parts.plan.batch(step).capacity, 1) for step in range(stop)}
    assert parts.compilations.count == len(programs)
    sent(parts, dispatch, in_blocks)
    assert parts.compilations.count == len(programs)


def test_skipped_updates_within_a_block_are_counted(parts, dispatch):
    block = next(block for block in blocks(parts.plan, 0, 100, SIZE, []) if len(block) == SIZE)
    ((_, batch),) = Loader(parts.plan, parts.rows, [block], 1)
    for poisoned, in_a_row in (([], 0), ([1], 1), ([0, 1], 2), ([0, 2], 1), ([1, 2], 2)):
        points = batch["points"].copy()
        points[poisoned] = np.nan
        state, stats, skips = dispatch(parts.create(), block, dict(batch, points=points))
        assert skips == in_a_row and state.updates == SIZE - len(poisoned)
        assert stats["skipped"].total == len(poisoned) and np.isfinite(compute(stats)["loss"])


def test_too_many_skips_within_a_block_end_the_run(tmp_path, monkeypatch):
    call = Dispatch.__call__

    def poisoned(self, state, block, batch):
        if len(block) == SIZE:
            batch["points"][:2] = np.nan
        return call(self, state, block, batch)

    monkeypatch.setattr(Dispatch, "__call__", poisoned)
    config = toy_config(train__total_steps=30, train__max_skips=2)
    with pytest.raises(UserError, match="2 updates in a row were not finite"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(("end", "dispatches"), [("signal", 4), ("crash", 9)])
def test_an_interrupted_run_goes_on_to_the_same_numbers(end, dispatches, straight, tmp_path, monkeypatch, capsys):
    counter, call = itertools.count(1), Dispatch.__call__

    def interrupted(self, state, block, batch):
        if next(counter) == dispatches:
            if end == "crash":
                raise RuntimeError("the machine is gone")
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, state, block, batch)

    config = toy_config(train__total_steps=18, train__save_every=6)
    with monkeypatch.context() as patch:
        patch.setattr(Dispatch, "__call__", interrupted)
        if end == "crash":
            with pytest.raises(RuntimeError):
                train(config, tmp_path / "run")
        else:
            train(config, tmp_path / "run")
    assert "finished" not in capsys.readouterr().out
    run = train(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert "continues from the checkpoint at step" in said and "updates at once" in said
    assert rows(run) == rows(straight)
    compiled = re.findall(r"compiled (.*?) in [\d.]+ s", said)
    assert len(compiled) == len(set(compiled)), "a restored state looks like the one that a step returns"
    assert {what.partition(" for")[0] for what in compiled} == {"the step", "the evaluation", "the pictures"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that was never interrupted."""
    return train(toy_config(train__total_steps=18, train__save_every=6), tmp_path_factory.mktemp("home") / "run")


@pytest.fixture(scope="module", autouse=True)
def no_report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxvae.train.loop.write_report", lambda setup: "nowhere")
        yield


def rows(run):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_rows(run.metrics_path)]


def test_the_size_of_blocks_cannot_change_within_a_run(straight):
    """It decides in which order batches come."""
    with pytest.raises(UserError, match=r"train\.steps_per_dispatch: 3 there, 1 here"):
        train(toy_config(train__total_steps=18, train__steps_per_dispatch=1), straight.folder)
