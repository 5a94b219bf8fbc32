"""Monitors at work: what they see, what they ask for, and what they remember over a restart."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxvae.config import to_plain
from jaxvae.errors import UserError
from jaxvae.health.monitors import Monitor, make_monitors
from jaxvae.train.optim import Optimizer


class Outcome(NamedTuple):
    """What an evaluation led to: lines for the user, new factors of learning rates (or {}), why to stop (or '')."""

    lines: list[str]
    lr_scale: dict[str, float]
    stop: str


def _same_question(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return all(before.get(key) == now.get(key) for key in ("kind", "metric", "mode"))


class Watch:
    """The monitors of a run. They look at every evaluation: at its metrics, and at the newest row of training.

    The evaluation before the first update shows them nothing.
    """

    def __init__(self, rows, optimizer: Optimizer, memory: Mapping[str, Any]):
        self.monitors = make_monitors(rows)
        self.rows = {name: to_plain(rows[name]) for name in self.monitors}
        self.peak = optimizer.peak
        before = memory.get("monitor_rows", {})
        # Another rule may not have stopped the run, and the best of another metric says nothing.
        self.stopped: str = memory.get("stopped", "") if before == self.rows else ""
        for name, monitor in self.monitors.items():
            if _same_question(before.get(name, {}), self.rows[name]):
                monitor.recall(memory["monitors"][name])

    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps, JSON-able."""
        remembered = {name: monitor.memory() for name, monitor in self.monitors.items()}
        return {"monitors": remembered, "monitor_rows": self.rows, "stopped": self.stopped}

    def check_metrics(self, known: set[str]) -> None:
        """Refuses a monitor of a metric that is not logged; at first `known` holds those of validation alone.

        Raises:
          UserError: naming the row and what there is.
        """
        training = any(metric.startswith("train/") for metric in known)
        for name, monitor in self.monitors.items():
            if monitor.metric not in known and (training or not monitor.metric.startswith("train/")):
                raise UserError(
                    f"config.monitors.{name}.metric = {monitor.metric!r} is not logged: there are "
                    f"{', '.join(sorted(known))}"
                )

    def observe(self, values: Mapping[str, float | None], lr_scale: Mapping[str, float]) -> Outcome:
        """Shows every monitor the value of its metric, if there is one."""
        lines, reduced = [], {}
        for name, monitor in self.monitors.items():
            if monitor.metric not in values:
                continue
            value = values[monitor.metric]
            verdict = monitor.observe(math.nan if value is None else value)
            message = verdict.message
            if verdict.reduce_lr:
                before = {**lr_scale, **reduced}
                after = {g: self._reduced(monitor, peak, before[g]) for g, peak in self.peak.items()}
                if after == before:  # at its floor: there is nothing to do, and nothing to say
                    continue
                message += f"; learning rate {self._changes(before, after)}"
                reduced = after
            if message:
                lines.append(f"monitor {name}: {message}")
            if verdict.stop and not self.stopped:
                self.stopped = lines[-1]
        return Outcome(lines, reduced, self.stopped)

    @staticmethod
    def _reduced(monitor: Monitor, peak: float, factor: float) -> float:
        rate = peak * factor
        reduced = monitor.reduced(rate)
        # Rates that stay have to be found equal: their quotient may not be.
        return factor if reduced == rate else reduced / peak

    def _changes(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        """'1e-03 -> 1e-04', with the groups' names if there are several; of the schedule's peak."""
        return ", ".join(
            (f"{group} " if len(self.peak) > 1 else "") + f"{peak * before[group]:.3g} -> {peak * after[group]:.3g}"
            for group, peak in self.peak.items()
            if before[group] != after[group]
        )
