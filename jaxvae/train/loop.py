"""The training loop."""

import contextlib
import signal
from pathlib import Path

import jax

from jaxvae.data.loader import Loader, blocks
from jaxvae.errors import UserError
from jaxvae.run import Run
from jaxvae.train.actions import Actions
from jaxvae.train.console import TrainConsole
from jaxvae.train.distributed import anywhere, is_first, wait_for_all
from jaxvae.train.interrupt import Interrupt
from jaxvae.train.recorder import Recorder
from jaxvae.train.replicas import check_replicas
from jaxvae.train.report import write_report
from jaxvae.train.setup import Setup, prepare
from jaxvae.train.sharding import local_rows
from jaxvae.train.updates import Updates


class Stopped(Exception):
    """The training ends before its last step: because a signal asked for it, or a monitor did."""

    def __init__(self, why: str, received: signal.Signals | None = None):
        super().__init__(why)
        self.received = received


def train(config, workdir: str | Path, command: str = "") -> Run:
    """Trains to the end, or continues the run in `workdir` from its newest sound checkpoint.

    SIGTERM and Ctrl-C end it after the update under way, with a checkpoint from which the same call goes on.

    Args:
      config: a locked configuration (`configs/*.py`).
      workdir: the run folder.
      command: what recreates the run, written to command.txt.

    Raises:
      UserError: for a configuration, data or a run folder that cannot work, or in which another process trains. The
        folder is then as it was. Also if the training cannot go on: see `docs/training.md`.
      KeyboardInterrupt: after Ctrl-C, when the checkpoint is saved.
    """
    with Interrupt() as interrupt:
        setup = prepare(config, workdir, command)
        quiet = not is_first()
        with setup.lock, TrainConsole(int(setup.state.step), setup.parts.total_steps, quiet) as console:
            for line in setup.notes:
                console.line(line)
            with _one_line("the same command goes on from the newest checkpoint"):
                stopped = _run_to_the_end(setup, console, interrupt)
            if stopped:
                console.line(f"{stopped} at step {int(setup.state.step)}")
            if stopped and stopped.received:
                console.line("the checkpoint is saved: the same command goes on from there")
                if stopped.received == signal.SIGINT:
                    raise KeyboardInterrupt
                return setup.run
            with _one_line("the same command writes the report"):
                report = write_report(setup)
            # A process that ends waits for the others only as long as for one that has died.
            wait_for_all("end")
            console.line(f"finished at step {int(setup.state.step)}: see {report}")
    return setup.run


def _run_to_the_end(setup: Setup, console: TrainConsole, interrupt: Interrupt) -> Stopped | None:
    """All updates that are left, and why they are not, if something ended the training early."""
    start = int(setup.state.step)
    compilations = setup.parts.compilations
    compilations.tell = lambda what, seconds: console.line(
        f"compiled {what} in {seconds:.1f} s ({compilations.count} so far)"
    )
    recorder = Recorder(setup.run, console, compilations, start, setup.memory)
    actions = Actions(setup, recorder, console)
    try:
        # Closing writes too.
        with contextlib.closing(setup.checkpoints), contextlib.closing(recorder):
            if start == 0:
                actions.at(0, {"eval", "sample"})
            run_steps(setup, recorder, actions, console, interrupt)
    except Stopped as stopped:
        return stopped
    return None


@contextlib.contextmanager
def _one_line(what_works: str):
    """Turns what the system refuses, such as a write to a full disk, into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error}: {what_works}") from error


def run_steps(setup: Setup, recorder: Recorder, actions: Actions, console: TrainConsole, interrupt: Interrupt) -> None:
    """Updates `setup.state` from its step to the last.

    Raises:
      Stopped: if a signal or a monitor ends the training early; everything is saved.
      UserError: if too many updates in a row were not finite, or copies of the state differ.
    """
    parts, train = setup.parts, setup.parts.config.train
    start, stop = int(setup.state.step), parts.total_steps
    if actions.watch.stopped:
        raise Stopped(f"stopped before: {actions.watch.stopped};")
    intervals = [train.log_every, train.eval_every, train.sample_every, train.save_every, train.replica_check_every]
    wanted = blocks(parts.plan, start, stop, train.steps_per_dispatch, intervals)
    loader = Loader(parts.plan, parts.rows, wanted, parts.config.data.workers, local_rows(parts.mesh, parts.rows))
    updates = Updates(setup, recorder)
    for block, batch in loader:
        updates.send(block, batch)
        step = block.stop
        console.step(step)
        if step % train.log_every == 0:
            recorder.end_interval(step, loader.waited)
        if train.replica_check_every and step % train.replica_check_every == 0:
            check_replicas(setup.state)
        due = actions.due(step)
        if due:
            # A checkpoint from which the run would stop at once helps nobody.
            updates.check()
        if actions.at(step, due):
            raise Stopped(actions.watch.stopped + "; ended")
        # Several processes ask each other, and so only now and then.
        asked = jax.process_count() == 1 or step % train.log_every == 0
        if asked and anywhere(interrupt.received is not None) and step < stop:
            received = interrupt.received or signal.SIGTERM
            updates.check()
            actions.at(step, {"save"})
            raise Stopped(f"ended by {received.name}", received)
    updates.finish()
    if stop % train.log_every:
        recorder.show_open(stop, loader.waited)
