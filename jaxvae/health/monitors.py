"""Monitors: what is watched while a training runs, and what happens then.

A row of `config.monitors` names a metric of the log (`val/loss`) and one of the kinds below. Each is a small state
machine on the host: `observe(value)` gets the value of its metric at every evaluation and says what to do; `memory`
and `recall` carry the machine through a checkpoint.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

SIGNS = {"min": -1, "max": 1}  # of a metric's change when it improves


class Verdict(NamedTuple):
    """What a monitor asks for; the default is nothing."""

    message: str = ""  # said to the user
    stop: bool = False  # end the training
    reduce_lr: bool = False  # take `Plateau.reduced` of the learning rate


@dataclasses.dataclass
class Monitor(abc.ABC):
    """What all kinds share. `remembers` names the fields that change while a training runs."""

    metric: str
    remembers: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def observe(self, value: float) -> Verdict:
        """Takes the next value of the metric."""

    def memory(self) -> dict[str, int | float | str]:
        """What `recall` needs, as JSON can hold it: infinities as the texts 'inf' and '-inf'."""
        values = {name: getattr(self, name) for name in self.remembers}
        return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}

    def recall(self, memory: Mapping[str, int | float | str]) -> None:
        """Takes back what `memory` gave, perhaps in another process."""
        for name in self.remembers:
            kind = type(getattr(self, name))
            setattr(self, name, kind(memory[name]))


@dataclasses.dataclass
class EarlyStop(Monitor):
    """Ends the training after `patience` values in a row that do not beat the best by more than `min_delta`.

    A value beats the best if value < best - min_delta (mode min) or value > best + min_delta (mode max); it is the
    best from then on. NaN beats nothing. Source: specification of Transformer3D, chapter 5.
    """

    mode: str = "min"  # min | max
    patience: int = 10
    min_delta: float = 0.0  # absolute
    remembers = ("best", "count")

    def __post_init__(self):
        self.sign = SIGNS[self.mode]
        self.best, self.count = -self.sign * math.inf, 0

    def observe(self, value: float) -> Verdict:
        if self.sign * value > self.sign * self.best + self.min_delta:
            self.best, self.count = float(value), 0
        else:
            self.count += 1
        if self.count < self.patience:
            return Verdict()
        margin = f" by more than {self.min_delta:g}" if self.min_delta else ""
        since = f"the last {self.count} values have not beaten {self.best:.6g}{margin}"
        return Verdict(f"{self.metric} = {value:.6g}: {since}", stop=True)


@dataclasses.dataclass
class Plateau(Monitor):
    """Reduces the learning rate when a metric stops improving, as torch.optim.lr_scheduler.ReduceLROnPlateau does.

    A value is better if it beats the best by `threshold`: absolutely, or as a share of the best. More than `patience`
    values in a row that are not better reduce the rate; the `cooldown` values after that do not count as bad ones.
    NaN is never better. Mind threshold_mode = rel and a best below zero: the bar lies on the wrong side of the best
    then, and values a little worse pass for better. Source: specification of Transformer3D, chapter 5.
    """

    mode: str = "min"  # min | max
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"  # rel | abs
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    remembers = ("best", "bad", "cooling")

    def __post_init__(self):
        self.sign = SIGNS[self.mode]
        self.best, self.bad, self.cooling = -self.sign * math.inf, 0, 0

    def observe(self, value: float) -> Verdict:
        margin = self.sign * self.threshold
        bar = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        if self.sign * value > self.sign * bar:
            self.best, self.bad = float(value), 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad = 0
        if self.bad <= self.patience:
            return Verdict()
        message = f"{self.metric} = {value:.6g}: the last {self.bad} values are not better than {self.best:.6g}"
        self.cooling, self.bad = self.cooldown, 0
        return Verdict(message, reduce_lr=True)

    def reduced(self, lr: float) -> float:
        """max(lr x factor, min_lr), or `lr` as it is if that were a change by no more than `eps`."""
        lower = max(lr * self.factor, self.min_lr)
        return lower if lr - lower > self.eps else lr


@dataclasses.dataclass
class Range(Monitor):
    """Warns, or ends the training, whenever a value is not in [low, high]; NaN never is."""

    low: float = -math.inf
    high: float = math.inf
    action: str = "warn"  # warn | stop

    def observe(self, value: float) -> Verdict:
        if self.low <= value <= self.high:
            return Verdict()
        return Verdict(f"{self.metric} = {value:.6g} is not in [{self.low:g}, {self.high:g}]", self.action == "stop")


KINDS = {"early_stop": EarlyStop, "plateau": Plateau, "range": Range}


def make_monitors(rows) -> dict[str, Monitor]:
    """{name: monitor} of the rows of `config.monitors`; a row whose `metric` is '' is off."""
    on = {name: dict(row.items()) for name, row in rows.items() if row["metric"]}
    return {name: KINDS[row.pop("kind")](**row) for name, row in on.items()}
