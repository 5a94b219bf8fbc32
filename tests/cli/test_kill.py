"""A run that is killed and started again by the same command ends as one that was never stopped."""

import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from folders import contents
from tiny import CHANGES, ROOT

from jaxvae.run import read_rows
from jaxvae.train.checkpoint import Checkpoints

STEPS, SAVE, LOG, SAMPLE = 240, 60, 7, 20  # rows on both sides of every checkpoint, and none with it
COMMAND = [
    sys.executable,
    str(ROOT / "scripts" / "train.py"),
    f"--config={ROOT / 'configs' / 'glyph_vae.py'}:quickstart",
    *[f"--config.{key}={value}" for key, value in CHANGES["glyph_vae"].items()],
    f"--config.train.total_steps={STEPS}",
    f"--config.train.save_every={SAVE}",
    f"--config.train.log_every={LOG}",
    f"--config.train.sample_every={SAMPLE}",
    f"--config.train.eval_every={SAMPLE}",
]
PLACE = "runs/glyph_vae-quickstart"


def start(home, kill_when=None):
    """Runs the command in `home` to its end, or until `kill_when(run folder)`; returns what it printed."""
    run = home / PLACE
    with open(home / "output.txt", "w+") as output:
        with subprocess.Popen(COMMAND, cwd=home, stdout=output, stderr=subprocess.STDOUT, text=True) as process:
            if kill_when is None:
                process.wait()
            while process.poll() is None:
                if kill_when(run):
                    process.kill()
                    break
                time.sleep(0.01)
        output.seek(0)
        said = output.read()
    assert process.returncode == (0 if kill_when is None else -9), said[-2000:]
    return said


def last_row(run):
    return max((row["step"] for row in read_rows(run / "metrics.jsonl")), default=-1)


def last_checkpoint(run):
    """The newest one that is complete; by looking, because orbax belongs to the other process."""
    return max((int(path.parent.name) for path in run.glob("checkpoints/*/commit_success.txt")), default=0)


def rows(run):
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in read_rows(run / "metrics.jsonl")
    ]


def saved(run):
    """Everything in the newest checkpoint: arrays by name, and what the host remembers."""
    checkpoints = Checkpoints(run / "checkpoints", 3)
    assert checkpoints.latest_step() == STEPS
    args = ocp.args.Composite(state=ocp.args.StandardRestore(), extra=ocp.args.JsonRestore())
    restored = checkpoints.manager.restore(STEPS, args=args)
    leaves = jax.tree_util.tree_leaves_with_path(restored["state"])
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}, restored["extra"]


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_numbers(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir(), killed.mkdir()
    start(straight)

    run = killed / PLACE
    start(killed, kill_when=lambda run: last_row(run) >= LOG)  # before there is a checkpoint
    assert last_checkpoint(run) == 0
    start(killed, kill_when=lambda run: 0 < last_checkpoint(run) < last_row(run))
    first = last_checkpoint(run)
    start(killed, kill_when=lambda run: first < last_checkpoint(run) < last_row(run))
    second = last_checkpoint(run)
    assert SAVE <= first < second < STEPS
    assert f"continues from the checkpoint at step {second}" in start(killed)

    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(straight / PLACE)]
    assert rows(run) == rows(straight / PLACE)
    (arrays, memory), (expected, expected_memory) = saved(run), saved(straight / PLACE)
    assert memory == expected_memory
    assert arrays.keys() == expected.keys() and any("params" in name for name in arrays)
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype and array.tobytes() == expected[name].tobytes(), name
    assert contents(run / "samples") == contents(straight / PLACE / "samples")
