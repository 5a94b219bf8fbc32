"""Monitors: what they ask for, and what they remember."""

import json
import math

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxvae.config import early_stop_row, plateau_row, range_row
from jaxvae.health.monitors import EarlyStop, Plateau, Range, make_monitors

VALUES = st.lists(st.floats(width=32), max_size=30)


def observed(monitor, values):
    return [monitor.observe(float(value)) for value in values]


def stops(monitor, values):
    """Indices of the values at which the monitor asks for the end."""
    return [i for i, verdict in enumerate(observed(monitor, values)) if verdict.stop]


def reductions(monitor, values):
    """Indices of the values at which the monitor asks for a lower rate."""
    return [i for i, verdict in enumerate(observed(monitor, values)) if verdict.reduce_lr]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_early_stop_waits_for_so_many_values_in_a_row(mode, sign):
    values = [sign * value for value in (5, 4, 4.5, 4.2, 3.9, 3.9, 4, 3.95, 1)]
    assert stops(EarlyStop("m", mode, patience=3), values) == [7]
    assert stops(EarlyStop("m", mode, patience=4), values) == []


def test_early_stop_wants_more_than_its_margin():
    creeping = [1 - 0.05 * i for i in range(10)]
    assert stops(EarlyStop("m", patience=1), creeping) == []
    # 0.95 and 0.9 are not below 1 - 0.12, and 0.85 is; then the same again.
    assert stops(EarlyStop("m", patience=2, min_delta=0.12), creeping) == [2, 5, 8]
    assert stops(EarlyStop("m", patience=3, min_delta=0.12), creeping) == []


def test_the_message_of_a_stop_names_metric_value_and_best():
    monitor = EarlyStop("val/loss", patience=2, min_delta=0.1)
    verdicts = observed(monitor, [2.0, 1.95, 2.5])
    assert [verdict.message == "" for verdict in verdicts] == [True, True, False]
    assert verdicts[-1].message == "val/loss = 2.5: the last 2 values have not beaten 2 by more than 0.1"


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_plateau_reduces_after_more_than_its_patience(mode, sign):
    values = [sign * value for value in (6, 5, 5, 5, 5, 5, 5, 5, 4)]
    assert reductions(Plateau("m", mode, patience=2, threshold=0.0), values) == [4, 7]


def test_plateau_takes_small_progress_for_none():
    creeping = [1 - 0.001 * i for i in range(8)]
    assert reductions(Plateau("m", patience=3, threshold=1e-4), creeping) == []
    assert reductions(Plateau("m", patience=3, threshold=0.1), creeping) == [4]
    assert reductions(Plateau("m", patience=3, threshold=0.1, threshold_mode="abs"), creeping) == [4]


def test_a_relative_threshold_is_a_share_of_the_best():
    # 10 % below 20 is 18, not 19.9: an absolute 0.1 is content with that.
    assert reductions(Plateau("m", patience=0, threshold=0.1), [20, 19.8, 17.9]) == [1]
    assert reductions(Plateau("m", patience=0, threshold=0.1, threshold_mode="abs"), [20, 19.8, 17.9]) == []
    assert reductions(Plateau("m", "max", patience=0, threshold=0.1), [20, 21.9, 22.1]) == [1]


def test_a_relative_threshold_below_zero_is_as_pytorch_has_it():
    monitor = Plateau("m", patience=0, threshold=0.1)
    assert reductions(monitor, [-10, -9.5, -8.5]) == [2]
    assert monitor.best == -9.5  # worse than -10, and yet below -10 (1 - 0.1) = -9; -8.5 is not below -8.55


def test_bad_values_do_not_count_while_it_cools():
    flat = [1.0] * 12
    assert reductions(Plateau("m", patience=1), flat) == [2, 4, 6, 8, 10]
    assert reductions(Plateau("m", patience=1, cooldown=3), flat) == [2, 7]


def test_a_reduction_that_is_hardly_one_is_none():
    monitor = Plateau("m", factor=0.5, min_lr=1e-6, eps=1e-8)
    assert monitor.reduced(1e-3) == 5e-4
    assert monitor.reduced(1.5e-6) == 1e-6
    assert monitor.reduced(1.005e-6) == 1.005e-6
    assert monitor.reduced(1e-7) == 1e-7  # never up to the floor


def test_a_range_holds_its_ends():
    values = [-1, 0.5, 2, 2.1, -1.1, math.nan, math.inf, -math.inf]
    warns = observed(Range("m", low=-1.0, high=2.0), values)
    assert [bool(verdict.message) for verdict in warns] == [False] * 3 + [True] * 5
    assert not any(verdict.stop for verdict in warns)
    assert stops(Range("m", low=-1.0, high=2.0, action="stop"), values) == [3, 4, 5, 6, 7]
    assert warns[3].message == "m = 2.1 is not in [-1, 2]"


@pytest.mark.parametrize("kind", [EarlyStop, Plateau])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_never_an_improvement(kind, mode):
    monitor = kind("m", mode, patience=2)
    verdicts = observed(monitor, [math.nan] * 3)
    assert verdicts[-1].stop or verdicts[-1].reduce_lr
    assert abs(monitor.best) == math.inf
    monitor.observe(1.0)
    assert monitor.best == 1.0


MONITORS = {
    "stop": lambda: EarlyStop("m", patience=3, min_delta=0.1),
    "stop_max": lambda: EarlyStop("m", "max", patience=3),
    "plateau": lambda: Plateau("m", patience=2, cooldown=2),
    "plateau_max": lambda: Plateau("m", "max", patience=2, threshold=0.1, threshold_mode="abs"),
    "range": lambda: Range("m", -1.0, 1.0),
}


@pytest.mark.parametrize("name", MONITORS)
@hypothesis.given(before=VALUES, after=VALUES)
@hypothesis.example(before=[], after=[1.0, 1.0, 1.0, 1.0, 1.0])
@hypothesis.example(before=[-math.inf, math.nan, 2.0], after=[math.inf, 1.0, -math.inf, 2.0])
def test_a_memory_in_strict_json_makes_up_for_the_values_before(name, before, after):
    through, resumed = MONITORS[name](), MONITORS[name]()
    observed(through, before)
    resumed.recall(json.loads(json.dumps(through.memory(), allow_nan=False)))
    assert resumed == through and resumed.memory() == through.memory()
    assert observed(resumed, after) == observed(through, after)


def test_a_memory_holds_all_that_changes():
    for make in MONITORS.values():
        monitor, fresh = make(), make()
        observed(monitor, [3, 2, 2, 2, 2, 2])
        changed = {name for name, value in vars(monitor).items() if value != vars(fresh)[name]}
        assert changed <= set(monitor.remembers)


def test_rows_become_monitors_unless_they_name_no_metric():
    rows = {
        "slow": plateau_row("val/loss", patience=4),
        "off": early_stop_row(),
        "beta": range_row("train/beta", low=0.0, high=1.0, action="stop"),
        "end": early_stop_row("val/iou", mode="max", min_delta=0.01),
    }
    assert make_monitors(rows) == {
        "slow": Plateau("val/loss", patience=4),
        "beta": Range("train/beta", 0.0, 1.0, "stop"),
        "end": EarlyStop("val/iou", "max", min_delta=0.01),
    }
    assert rows["slow"].kind == "plateau"  # the configuration is left alone
