"""What happens every so many steps beside training: evaluation, monitors, pictures, checkpoints."""

import time

import jax
import numpy as np

from jaxvae.config import to_plain
from jaxvae.errors import UserError
from jaxvae.train.console import TrainConsole
from jaxvae.train.evaluate import with_draws
from jaxvae.train.recorder import Recorder
from jaxvae.train.setup import Setup
from jaxvae.train.watch import Watch


class Actions:
    """Evaluation, pictures and checkpoints of a run, and the monitors that look at evaluations."""

    def __init__(self, setup: Setup, recorder: Recorder, console: TrainConsole):
        self.setup, self.recorder, self.console = setup, recorder, console
        parts = setup.parts
        self.config, self.total_steps = parts.config, parts.total_steps
        self.show = setup.evaluator.jit(with_draws(parts.task, parts.task.show, self.config))
        self.picture_batch = setup.evaluator.sample_batch()
        self.watch = Watch(self.config.monitors, parts.optimizer, setup.memory)

    def due(self, step: int) -> set[str]:
        """The actions of a step; all of them at the last."""
        every = {name: self.config.train[f"{name}_every"] for name in ("eval", "sample", "save")}
        return {name for name, n in every.items() if step == self.total_steps or (n and step % n == 0)}

    def at(self, step: int, due: set[str]) -> bool:
        """Carries out the actions `due`; a checkpoint comes last and holds what the others have logged.

        Returns:
          Whether a monitor wants the training to end here. If so, pictures and a checkpoint have been made.
        """
        if not due:
            return False
        # Steps that are still under way are training; the pause begins when they are done.
        jax.block_until_ready(self.setup.state.step)
        self.recorder.fetch()
        since = time.perf_counter()
        evaluated = self.evaluate(step) if "eval" in due else None
        stop = bool(self.watch.stopped)
        if "sample" in due or stop:
            self.sample(step)
        self.recorder.write()
        if "save" in due or stop:
            self.save(step, evaluated)
        self.recorder.pause(time.perf_counter() - since)
        return stop

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics over the whole validation set, shown to the monitors."""
        since, state = time.perf_counter(), self.setup.state
        variables = self.setup.parts.variables(state, self.config.train.eval_weights)
        values = self.setup.evaluator.evaluate(variables, state.key, state.step)
        values = {f"val/{name}": value for name, value in values.items()}
        self.recorder.note(step, values | {"time/eval_s": time.perf_counter() - since})
        listing = "  ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in values.items())
        self.console.line(f"step {step} validation: {listing}")
        self.check_metrics(values)
        if step:
            self.observe(values)
        return values

    def check_metrics(self, values: dict[str, float]) -> None:
        """Refuses metrics of the configuration that are not logged, at the first evaluation and any later one."""
        train, known = self.config.train, self.recorder.latest.keys() | values.keys()
        self.watch.check_metrics(known)
        if train.keep_best and train.best_metric not in values:
            names = ", ".join(values)
            raise UserError(f"config.train.best_metric = {train.best_metric!r} is not evaluated: there are {names}")

    def observe(self, values: dict[str, float]) -> None:
        """Shows the monitors an evaluation; changes learning rates if they want it."""
        seen = self.recorder.latest | values
        state = self.setup.state
        scale = {group: float(factor) for group, factor in state.lr_scale.items()}
        outcome = self.watch.observe(seen, scale)
        for line in outcome.lines:
            self.console.line(line)
        if outcome.lr_scale:
            place = self.setup.parts.shardings.lr_scale
            new = {g: jax.device_put(np.float32(f), place[g]) for g, f in outcome.lr_scale.items()}
            self.setup.state = state.replace(lr_scale=new)

    def sample(self, step: int) -> None:
        """Pictures of the same examples with the same noise every time."""
        since, state = time.perf_counter(), self.setup.state
        variables = self.setup.parts.variables(state, self.config.train.eval_weights)
        with self.setup.parts.compilations.of("the pictures"):
            pictures = self.show(variables, self.picture_batch, state.key)
        pictures = jax.device_get(pictures)
        self.recorder.pictures(step, pictures, self.setup.parts.task.captions)
        self.recorder.note(step, {"time/show_s": time.perf_counter() - since})

    def save(self, step: int, evaluated: dict[str, float] | None) -> None:
        """A checkpoint of everything that the run needs to go on."""
        memory = {
            **self.recorder.memory(),
            **self.watch.memory(),
            "fingerprints": self.setup.parts.fingerprints(),
            "config": to_plain(self.config),
        }
        self.setup.checkpoints.save(step, self.setup.state, memory, evaluated)
