"""The lock of a run folder: one training at a time, and no trace of a start that was refused."""

import os
import re
import signal
import subprocess
import sys

import pytest
from folders import contents

from jaxvae.errors import UserError
from jaxvae.run import LOCK
from jaxvae.train import lock
from jaxvae.train.lock import RunLock


def test_a_kept_lock_keeps_others_out_and_names_its_process(tmp_path):
    folder = tmp_path / "runs" / "new"
    with RunLock(folder) as held:
        assert not folder.exists(), "nothing may be written before `keep`"
        held.keep()
        before = contents(tmp_path)
        with pytest.raises(UserError, match=f"{re.escape(str(folder))} is in use: process {os.getpid()} on "):
            RunLock(folder)
        assert contents(tmp_path) == before
    with RunLock(folder) as later:
        later.keep()


def test_a_lock_file_that_is_there_is_held_before_anything_is_decided(tmp_path):
    with RunLock(tmp_path) as first:
        first.keep()
    (tmp_path / LOCK).write_text("77 on another machine\n")
    with RunLock(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on "):
        RunLock(tmp_path)
    assert contents(tmp_path) == {LOCK: b"77 on another machine\n"}, "it was not kept: all is as it was"
    with RunLock(tmp_path) as kept:
        kept.keep()
    assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} on ")


def test_of_two_starts_in_a_new_folder_one_is_refused(tmp_path):
    with RunLock(tmp_path) as slow:
        with RunLock(tmp_path) as fast:
            fast.keep()
            with pytest.raises(UserError, match="in use"):
                slow.keep()
        # What the slow one has seen of the folder is of the time before the fast one.
        before = contents(tmp_path)
        with pytest.raises(UserError, match="in use"):
            slow.keep()
    assert contents(tmp_path) == before


HOLD = """
import sys, time
from jaxvae.train.lock import RunLock
RunLock(sys.argv[1]).keep()
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_process_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout.readline() == "held\n"
            before = contents(tmp_path)
            with pytest.raises(UserError, match=f"process {process.pid} on "):
                RunLock(tmp_path)
            assert contents(tmp_path) == before
        finally:
            process.send_signal(signal.SIGKILL)
    with RunLock(tmp_path) as later:
        later.keep()


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with RunLock(tmp_path / "file" / "run") as held, pytest.raises(UserError, match="cannot be written"):
        held.keep()


@pytest.mark.parametrize("missing", ["module", "file system"])
def test_without_locks_nothing_is_refused(tmp_path, monkeypatch, missing):
    if missing == "module":
        monkeypatch.setattr(lock, "fcntl", None)
    else:

        def flock(*_):
            raise OSError("no locks available")

        monkeypatch.setattr(lock.fcntl, "flock", flock)
    for _ in range(2):
        held = RunLock(tmp_path)
        held.keep()
    held.close()
