"""Metrics from the device to metrics.jsonl, TensorBoard and the console, without making the device wait."""

import math
import time
from typing import Any

import jax
import numpy as np

from jaxvae.run import Run
from jaxvae.stats import Mean, Stats, Sum, merge, scalars, to_host
from jaxvae.train.compilations import Compilations
from jaxvae.train.console import TrainConsole
from jaxvae.train.distributed import is_first
from jaxvae.train.pictures import write_picture
from jaxvae.train.tensorboard import summary_writer

_merge_on_device = jax.jit(merge)


class Recorder:
    """Sums statistics over a logging interval on the device and fetches them one interval late.

    When an interval ends, its sums are still being computed; the row of the interval before it is written, whose
    numbers have long arrived. Only an evaluation or a checkpoint, which wait for the device anyway, writes the
    newest row at once. Of several processes all keep the numbers, and the first one writes them.
    """

    def __init__(self, run: Run, console: TrainConsole, compilations: Compilations, step: int, memory: dict[str, Any]):
        self.run, self.console, self.compilations = run, console, compilations
        self.writer = summary_writer(run.folder, step) if is_first() else None
        self.latest: dict[str, float] = memory.get("latest", {})  # the newest row of training, without times
        # In float32, as on the device, where the interval goes on as if it had never been interrupted.
        self.sums: Stats | None = load_stats(memory.get("interval", {})) or None
        self.pending: tuple[int, Stats, dict[str, float]] | None = None
        self.rows: dict[int, dict[str, float]] = {}
        self.waited_before, self.compiled_before, self.since_step = 0.0, 0.0, step
        self._restart_clock()

    def add(self, stats: Stats) -> None:
        """Adds a step's statistics, computed or still being computed, to the interval."""
        self.sums = stats if self.sums is None else _merge_on_device(self.sums, stats)

    def completed(self, examples: int) -> None:
        """Counts the examples of a step that the device has finished: only those make examples/s."""
        self.examples += examples

    def pause(self, seconds: float) -> None:
        """Time that was not training (compilation, evaluation, pictures): it does not count in examples/s."""
        self.paused += seconds

    def end_interval(self, step: int, waited: float) -> None:
        """Closes the interval at `step`; `waited` is the loader's waiting time so far, s."""
        times = self._times(step, waited)
        self.waited_before, self.compiled_before, self.since_step = waited, self.compilations.seconds, step
        jax.tree.map(lambda x: x.copy_to_host_async(), self.sums)
        self.fetch()
        self.pending = (step, self.sums, times)
        self.sums = None
        self._restart_clock()
        self.write()

    def show_open(self, step: int, waited: float) -> None:
        """Shows the numbers of an interval that the end of the run cuts short; it stays open, for a longer run."""
        if self.sums is not None:
            self.console.numbers(step, scalars(to_host(self.sums), "train/") | self._times(step, waited))

    def note(self, step: int, values: dict[str, float]) -> None:
        """Values of a step that are at hand (evaluation, times); they join the step's row."""
        self.rows.setdefault(step, {}).update(values)

    def pictures(self, step: int, pictures: dict[str, Any], captions: dict[str, str]) -> None:
        """Writes samples/<name>-<step>.png, each with its caption, and shows them in TensorBoard."""
        if self.writer is None:
            return
        for name, picture in pictures.items():
            caption = f"step {step}: {captions[name]}"
            image = write_picture(self.run.picture(name, step), picture, caption)
            self.writer.add_image(name, image, step, dataformats="HWC")

    def fetch(self) -> None:
        """Waits for the numbers of the last interval that has ended, and shows them."""
        if self.pending is not None:
            (step, sums, times), self.pending = self.pending, None
            self.latest = scalars(to_host(sums), "train/")
            self.note(step, self.latest | times)
            self.console.numbers(step, self.latest | times)

    def write(self) -> None:
        """Writes the rows whose numbers are at hand."""
        for step in sorted(self.rows):
            row = self.rows.pop(step)
            if self.writer is None:
                continue
            self.run.log(step, row)
            for name, value in row.items():
                if math.isfinite(value):  # of others TensorBoard shows nothing, and its writer complains
                    self.writer.add_scalar(name, value, step)

    def memory(self) -> dict[str, Any]:
        """The open interval's sums, to be saved with a checkpoint: a resumed run then logs the same numbers."""
        return {"interval": dump_stats(to_host(self.sums or {})), "latest": finite_or_none(self.latest)}

    def close(self) -> None:
        self.fetch()
        self.write()
        if self.writer is not None:
            self.writer.close()

    def _times(self, step: int, waited: float) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.began - self.paused, 1e-9)
        return {
            "time/step_s": seconds / max(step - self.since_step, 1),
            "time/examples_per_s": self.examples / seconds,
            "time/data_wait": (waited - self.waited_before) / seconds,
            "time/compile_s": self.compilations.seconds - self.compiled_before,
        }

    def _restart_clock(self) -> None:
        self.began, self.paused, self.examples = time.perf_counter(), 0.0, 0


def finite_or_none(values: dict[str, float]) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}


def dump_stats(stats: Stats) -> dict[str, list]:
    """Host statistics as JSON; float32 sums survive the round trip exactly."""
    return {
        name: [value.total.tolist(), value.weight.tolist()] if isinstance(value, Mean) else [value.total.tolist()]
        for name, value in stats.items()
    }


def load_stats(saved: dict[str, list]) -> Stats:
    """The inverse of `dump_stats`, in float32."""
    return {
        name: (Mean if len(parts) == 2 else Sum)(*(np.asarray(part, np.float32) for part in parts))
        for name, parts in saved.items()
    }
