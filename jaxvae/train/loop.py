"""The training loop."""

import collections
import time
from pathlib import Path

import jax

from jaxvae.data.loader import Loader
from jaxvae.run import Run
from jaxvae.train.console import TrainConsole
from jaxvae.train.evaluate import with_draws
from jaxvae.train.recorder import Recorder
from jaxvae.train.report import write_report
from jaxvae.train.setup import Setup, prepare
from jaxvae.train.sharding import put_batch

# Steps that may wait on the device: enough that it never idles, few enough that batches do not pile up.
IN_FLIGHT = 2


def train(config, workdir: str | Path, command: str = "") -> Run:
    """Trains to the end, or continues the run in `workdir` from its newest checkpoint.

    Args:
      config: a locked configuration (`configs/*.py`).
      workdir: the run folder.
      command: what recreates the run, written to command.txt.

    Raises:
      UserError: for a configuration, data or a run folder that cannot work, or in which another process trains. The
        folder is then as it was.
    """
    setup = prepare(config, workdir, command)
    start, stop = int(setup.state.step), setup.total_steps
    with setup.lock, TrainConsole(start, stop) as console:
        for line in setup.notes:
            console.line(line)
        recorder = Recorder(setup.run, console, start, setup.memory)
        actions = Actions(setup, recorder, console)
        if start == 0:
            actions.at(0, {"eval", "sample"})
        if start < stop:
            run_steps(setup, recorder, actions, console)
        recorder.close()
        setup.checkpoints.close()
        report = write_report(setup)
    console.line(f"finished at step {stop}: see {report}")
    return setup.run


def run_steps(setup: Setup, recorder: Recorder, actions: "Actions", console: TrainConsole) -> None:
    """Updates `setup.state` from its step to `setup.total_steps`."""
    config, plan, stop = setup.config, setup.plan, setup.total_steps
    loader = Loader(plan, setup.rows, int(setup.state.step), stop, config.data.workers)
    in_flight: collections.deque = collections.deque()
    compiled = set()
    for index, batch in loader:
        planned, since = plan.batch(index), time.perf_counter()
        setup.state, stats = setup.train_step(setup.state, put_batch(batch, setup.mesh))
        if planned.capacity not in compiled:
            compiled.add(planned.capacity)
            seconds = time.perf_counter() - since
            recorder.pause(seconds)
            console.line(f"compiled the step for examples of up to {planned.capacity} in {seconds:.1f} s")
        recorder.add(stats)
        in_flight.append((stats["loss"], len(planned.indices)))
        if len(in_flight) > IN_FLIGHT:
            loss, examples = in_flight.popleft()
            jax.block_until_ready(loss)
            recorder.completed(examples)

        step = index + 1
        console.step(step)
        if step % config.train.log_every == 0:
            recorder.end_interval(step, loader.waited)
        actions.at(step, actions.due(step))


class Actions:
    """What happens every so many steps beside training: evaluation, pictures, checkpoints."""

    def __init__(self, setup: Setup, recorder: Recorder, console: TrainConsole):
        self.setup, self.recorder, self.console = setup, recorder, console
        self.show = jax.jit(with_draws(setup.task, setup.task.show))
        self.picture_batch = setup.evaluator.sample_batch()

    def due(self, step: int) -> set[str]:
        """The actions of a step; all of them at the last."""
        every = {name: self.setup.config.train[f"{name}_every"] for name in ("eval", "sample", "save")}
        return {name for name, n in every.items() if step == self.setup.total_steps or (n and step % n == 0)}

    def at(self, step: int, due: set[str]) -> None:
        """Carries out the actions `due`; a checkpoint comes last and holds what the others have logged."""
        if not due:
            return
        # Steps that are still under way are training; the pause begins when they are done.
        jax.block_until_ready(self.setup.state.step)
        self.recorder.fetch()
        since = time.perf_counter()
        if "eval" in due:
            self.evaluate(step)
        if "sample" in due:
            self.sample(step)
        self.recorder.write()
        if "save" in due:
            memory = self.recorder.memory() | {"fingerprint": self.setup.sources["train"].fingerprint}
            self.setup.checkpoints.save(step, self.setup.state, memory)
        self.recorder.pause(time.perf_counter() - since)

    def evaluate(self, step: int) -> None:
        """Metrics over the whole validation set."""
        since, state = time.perf_counter(), self.setup.state
        variables = state.variables(self.setup.config.train.eval_weights)
        values = self.setup.evaluator.evaluate(variables, state.key, state.step)
        seconds = time.perf_counter() - since
        self.recorder.note(step, {f"val/{name}": v for name, v in values.items()} | {"time/eval_s": seconds})
        listing = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.console.line(f"step {step} validation: {listing}")

    def sample(self, step: int) -> None:
        """Pictures of the same examples with the same noise every time."""
        since, state = time.perf_counter(), self.setup.state
        variables = state.variables(self.setup.config.train.eval_weights)
        pictures = jax.device_get(self.show(variables, self.picture_batch, state.key))
        self.recorder.pictures(step, pictures, self.setup.task.captions)
        self.recorder.note(step, {"time/show_s": time.perf_counter() - since})
