"""Metrics from the device to metrics.jsonl, TensorBoard and the console, without making the device wait."""

import time
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from jaxvae.run import Run
from jaxvae.stats import Mean, Stats, Sum, merge, scalars, to_host
from jaxvae.train.console import TrainConsole
from jaxvae.train.pictures import write_picture

_merge_on_device = jax.jit(merge)


class Recorder:
    """Sums statistics over a logging interval on the device and fetches them one interval late.

    When an interval ends, its sums are still being computed; the row of the interval before it is written, whose
    numbers have long arrived. Only an evaluation or a checkpoint, which wait for the device anyway, writes the
    newest row at once.
    """

    def __init__(self, run: Run, console: TrainConsole, memory: dict[str, Any]):
        self.run, self.console = run, console
        self.writer = SummaryWriter(str(run.folder), flush_secs=30)
        self.sums: Stats | None = None
        self.saved = load_stats(memory["interval"]) if memory.get("interval") else None
        self.pending: tuple[int, Stats, Stats | None, dict[str, float]] | None = None
        self.rows: dict[int, dict[str, float]] = {}
        self.waited_before = 0.0
        self._restart_clock()

    def add(self, stats: Stats, examples: int) -> None:
        """Adds a step's statistics to the interval."""
        self.examples += examples
        self.sums = stats if self.sums is None else _merge_on_device(self.sums, stats)

    def pause(self, seconds: float) -> None:
        """Time that was not training (compilation, evaluation, pictures): it does not count in examples/s."""
        self.paused += seconds

    def end_interval(self, step: int, waited: float) -> None:
        """Closes the interval at `step`; `waited` is the loader's waiting time so far, s."""
        seconds = max(time.perf_counter() - self.began - self.paused, 1e-9)
        times = {
            "time/examples_per_s": self.examples / seconds,
            "time/data_wait": (waited - self.waited_before) / seconds,
        }
        self.waited_before = waited
        jax.tree.map(lambda x: x.copy_to_host_async(), self.sums)
        self._fetch()
        self.pending = (step, self.sums, self.saved, times)
        self.sums, self.saved = None, None
        self._restart_clock()
        self.write()

    def note(self, step: int, values: dict[str, float]) -> None:
        """Values of a step that are at hand (evaluation, times); they join the step's row."""
        self.rows.setdefault(step, {}).update(values)

    def pictures(self, step: int, pictures: dict[str, Any]) -> None:
        """Writes samples/<name>-<step>.png and shows them in TensorBoard."""
        for name, picture in pictures.items():
            image = write_picture(self.run.folder / "samples" / f"{name}-{step:07d}.png", picture)
            self.writer.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Writes every row whose interval has ended, waiting for its numbers."""
        self._fetch()
        self.write()

    def write(self) -> None:
        for step in sorted(self.rows):
            row = self.rows.pop(step)
            self.run.log(step, row)
            for name, value in row.items():
                self.writer.add_scalar(name, value, step)
            if "train/loss" in row:
                self.console.numbers(step, row)

    def memory(self) -> dict[str, Any]:
        """The open interval's sums, to be saved with a checkpoint: a resumed run then logs the same numbers."""
        return {"interval": dump_stats(self._interval_so_far())}

    def close(self) -> None:
        self.flush()
        self.writer.close()

    def _fetch(self) -> None:
        if self.pending is None:
            return
        step, sums, saved, times = self.pending
        self.pending = None
        stats = to_host(sums) if saved is None else merge(saved, to_host(sums))
        self.note(step, scalars(stats, "train/") | times)

    def _interval_so_far(self) -> Stats:
        parts = [part for part in (self.saved, self.sums and to_host(self.sums)) if part]
        return merge(*parts) if len(parts) == 2 else (parts[0] if parts else {})

    def _restart_clock(self) -> None:
        self.began, self.paused, self.examples = time.perf_counter(), 0.0, 0


def dump_stats(stats: Stats) -> dict[str, list]:
    """Host statistics as JSON; a float64 survives the round trip exactly."""
    return {
        name: [value.total.tolist(), value.weight.tolist()] if isinstance(value, Mean) else [value.total.tolist()]
        for name, value in stats.items()
    }


def load_stats(saved: dict[str, list]) -> Stats:
    """The inverse of `dump_stats`."""
    return {
        name: Mean(*map(np.asarray, parts)) if len(parts) == 2 else Sum(np.asarray(parts[0]))
        for name, parts in saved.items()
    }
