"""Monitors in a run: what they see, what they change, and that they remember it."""

import json
import math

import pytest
from tiny import tiny_config

from jaxvae.config import early_stop_row, plateau_row, range_row
from jaxvae.errors import UserError
from jaxvae.run import Run, read_rows
from jaxvae.train.loop import train
from jaxvae.train.optim import Optimizer
from jaxvae.train.watch import Outcome, Watch

TASK = "glyph_vae"
OPTIMIZER = Optimizer(None, None, peak={"default": 1e-3, "slow": 1e-4}, share=None, start={})
ONES = {"default": 1.0, "slow": 1.0}


def watch(memory=None, **rows):
    return Watch(rows, OPTIMIZER, memory or {})


def test_a_row_without_metric_is_off():
    assert watch(a=early_stop_row(), b=plateau_row(), c=range_row()).monitors == {}
    assert set(tiny_config(TASK).monitors) >= {"early_stop", "plateau", "range"}


def test_a_plateau_reduces_every_group_down_to_its_floor():
    w = watch(p=plateau_row("val/loss", factor=0.1, patience=0, min_lr=2e-5, eps=0.0))
    assert w.observe({"val/loss": 1.0}, ONES).lr_scale == {}
    found = w.observe({"val/loss": 1.0}, ONES)
    # The rates are 1e-3 and 1e-4; the second would fall to 1e-5.
    assert found.lr_scale == pytest.approx({"default": 0.1, "slow": 0.2}) and not found.stop
    assert "monitor p: val/loss" in found.lines[0]
    assert found.lines[0].endswith("; learning rate default 0.001 -> 0.0001, slow 0.0001 -> 2e-05")
    found = w.observe({"val/loss": 1.0}, found.lr_scale)
    assert found.lr_scale == pytest.approx({"default": 0.02, "slow": 0.2})
    assert found.lines[0].endswith("; learning rate default 0.0001 -> 2e-05")
    assert w.observe({"val/loss": 1.0}, found.lr_scale) == Outcome([], {}, ""), "nothing to reduce, nothing to say"


def test_a_plateau_at_its_end_is_silent_whatever_the_rates():
    # Rates whose quotient with the peak is not what it was: 3e-4 reduced by 0.2 again and again, down to eps.
    for peak in (3e-4, 1e-3, 7e-5):
        optimizer = Optimizer(None, None, {"default": peak}, None, {})
        w = Watch({"p": plateau_row("val/loss", factor=0.2, patience=0)}, optimizer, {})
        scale, said = {"default": 1.0}, []
        for _ in range(20):
            found = w.observe({"val/loss": 1.0}, scale)
            scale = found.lr_scale or scale
            said.append(found.lines)
        assert said[1] and not any(said[-5:])


def test_what_is_not_evaluated_is_not_observed_and_null_is_not_a_number():
    w = watch(r=range_row("train/loss", low=0.0, high=1.0))
    assert w.observe({"val/loss": 5.0}, ONES).lines == []
    assert len(w.observe({"train/loss": None}, ONES).lines) == 1
    assert len(w.observe({"train/loss": math.nan}, ONES).lines) == 1
    assert w.observe({"train/loss": 0.5}, ONES).lines == []


def test_memory_goes_through_json_and_a_watch_goes_on_from_it():
    rows = {"e": early_stop_row("val/loss", patience=3), "p": plateau_row("val/loss", patience=2)}
    values = [1.0, math.inf, 2.0, 0.5, 0.6, 0.7, math.nan, 0.9, 1.0]
    straight, stopped = watch(**rows), []
    for value in values:
        stopped.append(straight.observe({"val/loss": value}, ONES))
    for cut in range(len(values)):
        first = watch(**rows)
        for value in values[:cut]:
            first.observe({"val/loss": value}, ONES)
        memory = json.loads(json.dumps(first.memory(), allow_nan=False))
        second = watch(memory, **rows)
        assert [second.observe({"val/loss": value}, ONES) for value in values[cut:]] == stopped[cut:]


def test_a_row_that_asks_something_else_forgets_and_another_rule_lets_go_on():
    first = watch(e=early_stop_row("val/kl", patience=1))
    first.observe({"val/kl": 1.0}, ONES)
    assert first.observe({"val/kl": 2.0}, ONES).stop
    memory = first.memory()
    assert watch(memory, e=early_stop_row("val/kl", patience=1)).stopped
    patient = watch(memory, e=early_stop_row("val/kl", patience=3))
    assert not patient.stopped and patient.monitors["e"].best == 1.0
    other = watch(memory, e=early_stop_row("val/loss", patience=1))
    assert not other.stopped and other.monitors["e"].best == math.inf
    assert not watch(memory).stopped


@pytest.mark.parametrize(
    ("metric", "known", "refused"),
    [
        ("val/lss", {"val/loss"}, True),
        ("val/loss", {"val/loss"}, False),
        ("train/loss", {"val/loss"}, False),  # nothing of training is known yet
        ("train/lss", {"val/loss", "train/loss"}, True),
        ("loss", {"val/loss"}, True),
        ("valid/loss", {"val/loss", "train/loss"}, True),
    ],
)
def test_a_metric_that_is_not_logged_is_refused(metric, known, refused):
    w = watch(a=range_row(metric))
    if not refused:
        w.check_metrics(known)
        return
    with pytest.raises(UserError, match=f"config.monitors.a.metric = '{metric}' is not logged: there are .*val/loss"):
        w.check_metrics(known)


def config(**changes):
    return tiny_config(TASK, **{"train__total_steps": 8, "train__eval_every": 2, "train__save_every": 4} | changes)


def test_a_run_that_a_monitor_stops_is_finished_and_stays_so(tmp_path, capsys):
    rows = {
        # The loss falls: in mode `max` that is no progress.
        "monitors__early_stop__metric": "val/loss",
        "monitors__early_stop__mode": "max",
        "monitors__early_stop__patience": 2,
        "monitors__plateau__metric": "val/loss",
        "monitors__plateau__mode": "max",
        "monitors__plateau__patience": 0,
        "monitors__plateau__factor": 0.5,
        "optim__schedule__name": "constant",
        "optim__schedule__warmup_steps": 0,
    }
    run = train(config(**rows), tmp_path / "run")
    said = capsys.readouterr().out
    assert "monitor early_stop: val/loss" in said and "ended at step 6" in said and "finished at step 6" in said
    logged = read_rows(run.metrics_path)
    assert [row["step"] for row in logged] == [0, 2, 4, 6]
    lr = [row["train/lr"] for row in logged[1:]]
    assert lr == pytest.approx([lr[0], lr[0], lr[0] / 2], rel=1e-5), "seen at 4, in force from 5 on"
    assert (run.folder / "report.md").exists()
    # The same command again does not go on.
    train(config(**rows), run.folder)
    said = capsys.readouterr().out
    assert "stopped before" in said and "finished at step 6" in said
    assert read_rows(run.metrics_path) == logged
    # With another rule it does, from where it was and at the rate that it had.
    train(config(**rows | {"monitors__early_stop__metric": ""}), run.folder)
    assert "monitors.early_stop.metric: 'val/loss' -> ''" in capsys.readouterr().out
    assert [row["step"] for row in read_rows(run.metrics_path)] == [0, 2, 4, 6, 8]


def test_wrong_metrics_are_refused_before_the_first_update(tmp_path):
    with pytest.raises(UserError, match=r"config.monitors.range.metric = 'val/x' is not logged"):
        train(config(monitors__range__metric="val/x"), tmp_path / "a")
    with pytest.raises(UserError, match=r"config.train.best_metric = 'val/x' is not evaluated: there are .*val/loss"):
        train(config(train__keep_best=1, train__best_metric="val/x"), tmp_path / "b")
    # The folder takes the corrected command.
    run = train(config(train__keep_best=1, train__best_metric="val/kl"), tmp_path / "b")
    assert (run.folder / "report.md").exists()


def test_updates_that_stay_not_finite_stop_the_run(tmp_path, monkeypatch):
    from jaxvae.tasks.glyph_vae import GlyphVAETask

    def broken(self, variables, batch, draws, totals, step, terms=GlyphVAETask.terms):
        found, aux = terms(self, variables, batch, draws, totals, step)
        return {name: term + (float("nan") * (step > 3)) for name, term in found.items()}, aux

    monkeypatch.setattr(GlyphVAETask, "terms", broken)
    with pytest.raises(
        UserError, match=r"3 updates in a row were not finite .*the newest checkpoint is of step 4"
    ) as caught:
        train(config(train__max_skips=3, train__save_every=2, train__total_steps=40), tmp_path / "run")
    assert "\n" not in str(caught.value)
    rows = read_rows(Run(tmp_path / "run").metrics_path)
    assert [row.get("train/skipped") for row in rows if row["step"] in (2, 4)] == [0.0, 0.5]
