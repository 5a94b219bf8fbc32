"""A run that is ended from outside and started again by the same command ends as one that was left alone."""

import random
import signal
import subprocess
import sys
import time

import pytest
from folders import contents
from tiny import CHANGES, ROOT

from jaxvae.run import read_rows
from jaxvae.train.checkpoint import Checkpoints

PLACE = "runs/glyph_vae-quickstart"
LOG = 7  # rows on both sides of every checkpoint, and none with it


def command(steps, save):
    changes = CHANGES["glyph_vae"] | {
        "train.total_steps": steps,
        "train.save_every": save,
        "train.log_every": LOG,
        "train.sample_every": 20,
        "train.eval_every": 20,
    }
    return [
        sys.executable,
        str(ROOT / "scripts" / "train.py"),
        f"--config={ROOT / 'configs' / 'glyph_vae.py'}:quickstart",
        *[f"--config.{key}={value}" for key, value in changes.items()],
    ]


def start(command, home, number=None, when=None):
    """Runs the command in `home` to its end, or sends it the signal `number` as soon as `when(run folder)`.

    Returns its exit status and what it printed.
    """
    run = home / PLACE
    with open(home / "output.txt", "w+") as output:
        with subprocess.Popen(command, cwd=home, stdout=output, stderr=subprocess.STDOUT, text=True) as process:
            while when is not None and process.poll() is None:
                if when(run):
                    process.send_signal(number)
                    break
                time.sleep(0.005)
            process.wait()
        output.seek(0)
        return process.returncode, output.read()


def last_row(run):
    return max((row["step"] for row in read_rows(run / "metrics.jsonl")), default=-1)


def last_checkpoint(run):
    """The newest one that is complete; by looking, because orbax belongs to the other process."""
    return max((int(path.parent.name) for path in run.glob("checkpoints/*/commit_success.txt")), default=0)


def saving(run):
    """Whether a checkpoint is being written, or was when the process died."""
    folders = [path for path in run.glob("checkpoints/*") if path.name.isdecimal()]
    return any(not (path / "commit_success.txt").exists() for path in folders)


def rows(run):
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in read_rows(run / "metrics.jsonl")
    ]


def saved(run):
    """Everything in the newest checkpoint: digests of arrays by name, and what the host remembers."""
    checkpoints = Checkpoints(run / "checkpoints")
    step = checkpoints.steps()[-1]
    return step, checkpoints.digests(step), checkpoints.read_memory(step)


def check_equal(run, straight):
    """One run has ended as the other: numbers, weights, memory and pictures, each step once."""
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(straight)]
    assert rows(run) == rows(straight)
    assert saved(run) == saved(straight)
    assert any("params" in name for name in saved(run)[1])
    assert contents(run / "samples") == contents(straight / "samples")


@pytest.fixture
def homes(tmp_path):
    """Where one run is left alone, and another is not."""
    for name in ("straight", "other"):
        (tmp_path / name).mkdir()
    return tmp_path / "straight", tmp_path / "other"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_run_that_is_asked_to_end_saves_and_goes_on_later(homes, number, status):
    straight, other = homes
    short = command(60, 40)
    code, said = start(short, other, number, when=lambda run: last_row(run) >= LOG)
    assert code == status, said[-2000:]
    assert f"ended by {number.name} at step" in said and "Traceback" not in said
    step = last_checkpoint(other / PLACE)
    assert LOG <= step < 60
    code, said = start(short, other)
    assert code == 0 and f"continues from the checkpoint at step {step}" in said
    assert start(short, straight)[0] == 0
    check_equal(other / PLACE, straight / PLACE)


def test_ctrl_c_while_a_step_is_compiled_is_no_crash(homes):
    # Without a cache the first compilation takes seconds; it begins after the pictures of step 0.
    cold = ["env", "JAX_ENABLE_COMPILATION_CACHE=false", *command(60, 40)]
    code, said = start(cold, homes[1], signal.SIGINT, when=lambda run: any((run / "samples").glob("*.png")))
    assert code == 130, said[-2000:]
    assert "ended by SIGINT at step" in said and "Fatal" not in said


@pytest.mark.slow
def test_a_run_that_is_killed_thirty_times_ends_with_the_same_numbers(homes):
    straight, killed = homes
    long, run, chance = command(1500, 20), killed / PLACE, random.Random(0)
    assert start(long, straight)[0] == 0
    in_a_save = 0
    for kill in range(30):
        newest = last_checkpoint(run)
        steps = chance.randint(1, 45)

        def when(run, kill=kill, newest=newest, steps=steps):
            if kill % 3 == 0 and newest:  # in the middle of a save
                return saving(run)
            return last_row(run) >= newest + steps

        code, said = start(long, killed, signal.SIGKILL, when)
        assert code == -9, said[-2000:]
        in_a_save += saving(run)
    assert in_a_save >= 3, "no kill fell into a save"
    code, said = start(long, killed)
    assert code == 0 and "continues from the checkpoint at step" in said
    check_equal(run, straight / PLACE)
