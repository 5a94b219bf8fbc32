"""Keys that others switch off are read where they are switched on."""

import re

import pytest
from reads import NEEDS, dead, reads
from tiny import tiny_config

from jaxvae.config import early_stop_row, flatten, group_row, plateau_row, range_row
from jaxvae.train.loop import train
from jaxvae.train.schedules import make_schedule

pytestmark = pytest.mark.usefixtures("toys")


def test_the_search_for_dead_keys_finds_them():
    config = tiny_config("toy")
    with reads(config) as found:
        assert config.optim.lr and config["train.keep_best"] == 0 and flatten(config)
    assert found == {"optim.lr", "train.keep_best"}
    silent = dead(config, found)
    assert {"optim.weight_decay", "loss.drop"} <= silent
    assert not {"train.best_metric", "monitors.range.low", "precision.loss_scale.init"} & silent
    config.monitors.range.metric = "val/loss"
    assert "monitors.range.low" in dead(config, found)


def test_what_is_switched_on_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxvae.train.loop.write_report", lambda setup: "nowhere")
    first = tiny_config("toy", train__total_steps=1)
    train(first, tmp_path / "first")
    config = tiny_config(
        "toy",
        train__total_steps=1,
        train__eval_every=1,
        train__save_every=1,
        train__keep_best=1,
        init_from__path=str(tmp_path / "first"),
        optim__clip__name="percentile",
        optim__schedule__name="cosine_restarts",
        optim__schedule__warmup_steps=1,
        precision__compute="float16",
    )
    with config.unlocked():
        config.optim.groups.own = group_row("^inner/")
        for name, row in {"early_stop": early_stop_row, "plateau": plateau_row, "range": range_row}.items():
            config.monitors[name] = row("val/loss")
    with reads(config) as found:
        train(config, tmp_path / "run")
        for schedule in ("cosine", "exponential"):
            config.optim.schedule.name = schedule
            make_schedule(config, 10)
    assert flatten(config).keys() == found
    assert all(any(re.fullmatch(pattern, key) for key in found) for pattern in NEEDS), "one that stands for no key"
