"""Several processes that train together: as one, with one log, and none of them waits for ever for another."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from folders import contents
from logs import assert_same_rows
from tiny import CHANGES, ROOT

from jaxvae.errors import UserError
from jaxvae.run import read_rows
from jaxvae.train import distributed
from jaxvae.train.lock import RunLock

SCRIPT = ROOT / "scripts" / "train.py"
TOY = f"--config={ROOT / 'tests' / 'toy_config.py'}"
HEARTBEAT_S = 10
LIMIT_S = 300  # for what hangs although nothing should


class Group:
    """Two processes of two CPU devices each, all that they say in a file of their own.

    Args:
      home: where the files are.
      arguments: of the script.
      own: further arguments of each process.
      program: the script, or code that runs it.
    """

    def __init__(self, home: Path, *arguments, own=((), ()), program=(str(SCRIPT),)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
        # Threads for all devices, and more: see `run_python`.
        env = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=flags, PJRT_NPROC="8")
        self.outputs = [home / f"output{i}.txt" for i in range(2)]
        self.processes = []
        for i in range(2):
            group = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}"]
            command = [sys.executable, *program, *arguments, *own[i], *group, f"--heartbeat_s={HEARTBEAT_S}"]
            with open(self.outputs[i], "w") as output:
                self.processes.append(subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT))

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self) -> list[int]:
        """Until both have ended; their exit statuses."""
        return [process.wait(LIMIT_S) for process in self.processes]

    def wait_until(self, condition) -> None:
        """Until `condition()` holds while both run."""
        until = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < until and all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.01)

    def said(self) -> list[str]:
        """What each has said, without what the collectives say of themselves."""
        texts = [output.read_text() for output in self.outputs]
        return ["".join(line for line in text.splitlines(True) if "peer ranks" not in line) for text in texts]


def finished_checkpoints(run):
    """Their steps; by looking, because orbax belongs to the other processes."""
    return sorted(int(path.parent.name) for path in run.glob("checkpoints/*[0-9]/commit_success.txt"))


def test_two_processes_train_as_one(run_python, tmp_path):
    alone, run = tmp_path / "alone", tmp_path / "run"
    arguments = [
        TOY,
        "--config.parallel.fsdp=2",
        "--config.train.replica_check_every=3",
        "--config.train.steps_per_dispatch=2",
        # Halves the learning rate at every evaluation.
        "--config.monitors.plateau.metric=val/loss",
        "--config.monitors.plateau.patience=0",
        "--config.monitors.plateau.factor=0.5",
        "--config.monitors.plateau.threshold=1000.0",
    ]
    found = run_python(SCRIPT, *arguments, f"--workdir={alone}", devices=4)
    assert found.returncode == 0, found.stderr[-2000:]
    with Group(tmp_path, *arguments, f"--workdir={run}") as group:
        assert group.wait() == [0, 0], group.said()
        first = group.processes[0].pid
    assert_same_rows(run, alone)
    said, nothing = group.said()
    assert "4 x cpu in 2 processes" in said and "finished at step 6" in said
    assert nothing == "", "only the first one speaks"
    assert contents(run / "samples").keys() == contents(alone / "samples").keys()
    assert len(list(run.iterdir())) == len(list(alone.iterdir())), "one file of events, nothing twice"
    assert (run / "lock").read_text().startswith(f"{first} on ")
    assert json.loads((run / "host.json").read_text())["processes"] == 2
    assert finished_checkpoints(run) == [3, 6]
    table = "Does the latent matter?"
    report, expected = ((folder / "report.md").read_text().split(table)[1] for folder in (run, alone))
    assert report.split("## Validation")[0] == expected.split("## Validation")[0]


def test_what_one_process_refuses_ends_both_at_once(tmp_path):
    run = tmp_path / "run"
    with RunLock(run) as other:
        other.keep()
        before = contents(run)
        with Group(tmp_path, TOY, f"--workdir={run}") as group:
            assert group.wait() == [2, 2]
        first, second = group.said()
        assert first.startswith(f"error: {run} is in use: process {os.getpid()} on ") and first.count("\n") == 1
        assert second == "error: another of the processes cannot go on: it says why\n"
        assert contents(run) == before
    (run / "lock").unlink()
    with Group(tmp_path, TOY, f"--workdir={run}", own=[(), ("--config.seed=7",)]) as group:
        assert group.wait() == [2, 2]
    wrong = "error: the processes have been started with different configurations: give all of them the same\n"
    assert group.said() == [wrong, wrong]
    assert contents(run) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--coordinator=127.0.0.1:1234"], "--processes and --process missing"),
        (["--process=0", "--processes=2"], "--coordinator missing"),
        (["--heartbeat_s=9"], "--heartbeat_s=9 is for several processes"),
        (["--coordinator=here", "--processes=2", "--process=0"], "--coordinator=here: must be host:port"),
    ],
)
def test_wrong_flags_end_in_one_line(run_python, tmp_path, arguments, words):
    config = f"--config={ROOT / 'configs' / 'glyph_vae.py'}"
    found = run_python(SCRIPT, config, *arguments, f"--workdir={tmp_path / 'run'}")
    assert found.returncode == 2, found.stderr[-2000:]
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ") and words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("here:0", 2, 0), "--coordinator=here:0: must be host:port"),
        ((":80", 2, 0), "--coordinator=:80: must be host:port"),
        (("here:80", 0, 0), "--processes=0: must be a whole number above 0"),
        (("here:80", 2, 2), "--process=2: must be from 0 to 1"),
        (("here:80", 2, 1, 0), "--heartbeat_s=0: must be a whole number of seconds above 0"),
    ],
)
def test_values_that_cannot_work_are_named(arguments, words):
    with pytest.raises(UserError, match=words):
        distributed.initialize(*arguments)


def test_a_coordinator_that_cannot_be_had_is_named(monkeypatch):
    monkeypatch.setattr(distributed, "START_S", 0.2)
    with socket.socket() as taken:
        taken.bind(("", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--coordinator={address} cannot be reached"):
            distributed.initialize(address, 2, 1)  # bound, but nobody listens
        taken.listen()
        with pytest.raises(UserError, match=f"--coordinator={address}: process 0 cannot listen there"):
            distributed.initialize(address, 2, 0)


@contextlib.contextmanager
def endless(home, run):
    """A training of two processes that does not end by itself, with a first checkpoint and rows after it."""
    arguments = [TOY, f"--workdir={run}", "--config.parallel.fsdp=2", "--config.train.total_steps=1000000"]
    every = ["--config.train.save_every=20", "--config.train.log_every=10", "--config.train.eval_every=0"]
    with Group(home, *arguments, *every) as group:
        group.wait_until(lambda: finished_checkpoints(run) and read_rows(run / "metrics.jsonl")[-1]["step"] > 30)
        yield group


def goes_on(home, run):
    """Whether the same command continues from the newest checkpoint to an end, each step logged once."""
    newest = finished_checkpoints(run)[-1]
    stop = newest + 40
    arguments = [TOY, f"--workdir={run}", "--config.parallel.fsdp=2", f"--config.train.total_steps={stop}"]
    every = ["--config.train.save_every=20", "--config.train.log_every=10", "--config.train.eval_every=0"]
    with Group(home, *arguments, *every) as group:
        assert group.wait() == [0, 0], group.said()
    assert f"continues from the checkpoint at step {newest}" in group.said()[0]
    return [row["step"] for row in read_rows(run / "metrics.jsonl")] == list(range(0, stop + 1, 10))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_both_go_on(tmp_path, victim):
    run = tmp_path / "run"
    with endless(tmp_path, run) as group:
        group.processes[victim].kill()
        since = time.monotonic()
        assert group.processes[1 - victim].wait(LIMIT_S) != 0
        assert time.monotonic() - since < 2 * HEARTBEAT_S
    assert goes_on(tmp_path, run)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_process_saves_and_ends_both(tmp_path, told):
    run = tmp_path / "run"
    with endless(tmp_path, run) as group:
        group.processes[told].send_signal(signal.SIGTERM)
        assert group.wait() == [0, 0], group.said()
    last = read_rows(run / "metrics.jsonl")[-1]["step"]
    assert f"ended by SIGTERM at step {last}" in group.said()[0]
    assert finished_checkpoints(run)[-1] == last
    assert goes_on(tmp_path, run)


# The script; in the end it says which training examples each batch has made it load, by step.
COUNTED = f"""
import json, runpy
from jaxvae.data import loader

loaded = []

def assemble(plan, planned, *rest, assemble=loader.assemble):
    examples, load = [], plan.source.load
    plan.source.load = lambda index, draw: examples.append(index) or load(index, draw)
    batch = assemble(plan, planned, *rest)
    del plan.source.load
    if plan.shuffle:
        loaded.append(examples)
    return batch

loader.assemble = assemble
try:
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
finally:
    print("loaded", json.dumps(loaded))
"""


def loaded(said):
    return json.loads(next(line for line in said.splitlines() if line.startswith("loaded ")).removeprefix("loaded "))


@pytest.mark.slow
def test_each_process_loads_its_own_part_and_the_losses_are_the_same(run_python, tmp_path):
    alone, run = tmp_path / "alone", tmp_path / "run"
    arguments = [
        f"--config={ROOT / 'configs' / 'glyph_vae.py'}:quickstart",
        *[f"--config.{key}={value}" for key, value in CHANGES["glyph_vae"].items()],
        "--config.train.total_steps=10",
        "--config.train.log_every=1",
        "--config.data.workers=1",
        "--config.optim.accum=2",
    ]
    found = run_python(COUNTED, *arguments, f"--workdir={alone}", devices=4)
    assert found.returncode == 0, found.stderr[-2000:]
    with Group(tmp_path, *arguments, f"--workdir={run}", program=("-c", COUNTED)) as group:
        assert group.wait() == [0, 0], group.said()
    assert_same_rows(run, alone)
    # The first is the batch from whose shapes all is built.
    batches, *parts = (loaded(said)[1:] for said in (found.stdout, *group.said()))
    assert len(batches) == len(parts[0]) == len(parts[1]) == 10
    assert sum(map(len, batches)) == 65 + 8, "an epoch of 65 glyphs, and a batch more"
    for whole, *halves in zip(batches, *parts, strict=True):
        assert set(whole) == set(halves[0]) | set(halves[1])
        assert all(len(half) <= 4 for half in halves)
        shared = set(halves[0]) & set(halves[1])
        assert not shared if len(whole) == 8 else shared <= {whole[0]}, "padding repeats the first example"


def break_chunks(checkpoint, process):
    """Damages the arrays that a process has written."""
    for path in (checkpoint / "state" / f"ocdbt.process_{process}" / "d").iterdir():
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_damage_that_one_process_finds_is_damage_for_both(tmp_path, process):
    run = tmp_path / "run"
    # Wide enough that arrays have files of their own.
    arguments = [TOY, f"--workdir={run}", "--config.parallel.fsdp=4", "--config.model.width=256"]
    with Group(tmp_path, *arguments) as group:
        assert group.wait() == [0, 0], group.said()
    break_chunks(run / "checkpoints" / "6", process)
    with Group(tmp_path, *arguments) as group:
        assert group.wait() == [0, 0], group.said()
    said = group.said()[0]
    assert f"checkpoint {run / 'checkpoints' / '6'} is damaged" in said and "continues from step 3" in said
    assert finished_checkpoints(run) == [3, 6] and (run / "checkpoints" / "6.damaged").exists()
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [0, 2, 3, 4, 6]


# The script, whose log cannot be written any more from update 4 on.
FULL = f"""
import runpy
from jaxvae.run import Run

def log(self, step, row, log=Run.log):
    if step >= 4:
        raise OSError("no space left")
    log(self, step, row)

Run.log = log
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_an_error_in_one_process_ends_both(tmp_path):
    run = tmp_path / "run"
    arguments = [TOY, f"--workdir={run}", "--config.train.total_steps=1000"]
    with Group(tmp_path, *arguments, program=("-c", FULL)) as group:
        group.wait_until(lambda: "error: no space left" in group.said()[0])
        since = time.monotonic()
        assert all(status != 0 for status in group.wait())
        assert time.monotonic() - since < 2 * HEARTBEAT_S
    assert "error: no space left: the same command goes on from the newest checkpoint" in group.said()[0]
    assert finished_checkpoints(run) == [3]
