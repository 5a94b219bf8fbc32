"""scripts/evaluate.py as a user runs it: the numbers of the training, on any devices, and mistakes in one line."""

import json
import math
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from folders import contents
from tiny import CHANGES, ROOT

from jaxvae.cli import load_module
from jaxvae.config import flatten, from_plain, to_plain
from jaxvae.errors import UserError
from jaxvae.run import read_rows, write_json
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.evaluate_run import open_run
from jaxvae.train.lock import RunLock

TTF = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
STEPS = {"total_steps": 4, "log_every": 2, "eval_every": 2, "save_every": 2, "sample_every": 0}
# The average moves slowly: with this it is no longer the same as the weights after four updates.
RATES = {"optim.lr": 0.01, "optim.ema.average.decay": 0.5, "optim.schedule.name": "constant"}


@pytest.fixture(scope="module")
def evaluate(run_python):
    """Runs scripts/evaluate.py; gives the process, and what it wrote."""

    def run(*arguments, **options):
        found = run_python(ROOT / "scripts" / "evaluate.py", *map(str, arguments), **options)
        written = [line.removeprefix("written to ") for line in found.stdout.splitlines() if "written to " in line]
        return found, json.loads(Path(written[0]).read_text()) if written else None

    return run


@pytest.fixture(scope="module")
def finished(run_python, tmp_path_factory):
    """A tiny run over two fonts with checkpoints at 2 and 4, and the folder of the fonts."""
    home = tmp_path_factory.mktemp("home")
    fonts = home / "fonts"
    fonts.mkdir()
    for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf"):
        shutil.copy(TTF / name, fonts)
    changes = CHANGES["glyph_vae"] | {f"train.{k}": v for k, v in STEPS.items()} | RATES | {"data.path": fonts}
    found = run_python(
        ROOT / "scripts" / "train.py",
        f"--config={ROOT / 'configs' / 'glyph_vae.py'}:quickstart",
        *[f"--config.{key}={value}" for key, value in changes.items()],
        f"--workdir={home / 'run'}",
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return home / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy, to do with what a test likes."""
    return shutil.copytree(finished, tmp_path / "run")


def logged(run, step):
    """What the training measured on the validation set at a step."""
    (row,) = [row for row in read_rows(run / "metrics.jsonl") if row["step"] == step]
    return {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}


def change(path, **values):
    """Writes other values of dotted keys (`__` for a dot) into a JSON file."""
    plain = json.loads(path.read_text())
    for key, value in values.items():
        *parents, last = key.split("__")
        inner = plain
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    write_json(path, plain)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_a_configuration_survives_its_file(path):
    module = load_module(path)
    for name in module.PRESETS:
        config = module.get_config(name)
        found = from_plain(json.loads(json.dumps(to_plain(config))))
        assert found == config and found.is_locked
        kinds, expected = ({key: type(value) for key, value in flatten(c).items()} for c in (found, config))
        assert kinds == expected


def test_numbers_are_those_of_the_training_and_the_run_stays_as_it_is(evaluate, run):
    with RunLock(run) as training:
        training.keep()
        before = contents(run)
        found, written = evaluate(run)
        assert found.returncode == 0, found.stderr[-2000:]
        assert contents(run) == before | {
            "evaluation-val-average-4.json": (run / "evaluation-val-average-4.json").read_bytes()
        }
    assert written["metrics"] == logged(run, 4)
    about = {key: value for key, value in written.items() if key not in ("metrics", "fingerprint", "devices")}
    assert about == {
        "task": "glyph_vae",
        "preset": "quickstart",
        "step": 4,
        "split": "val",
        "weights": "average",
        "examples": len(json.loads((run / "data.json").read_text())["splits"]["val"]["examples"]),
    }
    table = dict(line.split() for line in found.stdout.splitlines() if len(line.split()) == 2)
    assert {name: float(value) for name, value in table.items()} == pytest.approx(written["metrics"], rel=1e-5)


@pytest.mark.parametrize("devices", [3, 4])  # batches of 8, padded to 9, and split over four
def test_the_devices_and_the_layout_of_the_training_do_not_matter(evaluate, run, devices, tmp_path):
    change(run / "config.json", parallel__data=2, parallel__fsdp=4)  # eight devices that are not here
    found, written = evaluate(run, f"--json={tmp_path / 'mine.json'}", devices=devices)
    assert found.returncode == 0, found.stderr[-2000:]
    assert written["metrics"] == pytest.approx(logged(run, 4), rel=1e-5, abs=1e-7)
    assert len(written["devices"]) == devices
    assert not list(run.glob("evaluation*"))


def test_a_step_can_be_named_in_two_ways(evaluate, run):
    _, by_path = evaluate(run / "checkpoints" / "2")
    _, by_step = evaluate(run, "--step=2")
    assert by_path == by_step and by_path["metrics"] == logged(run, 2)


def quiet(path, **options):
    return open_run(path, report=lambda line: None, **options)


def test_weights_and_splits_are_what_they_are_called(run):
    raw, average = quiet(run, weights="raw"), quiet(run)
    assert average.weights == "average"
    assert raw.evaluate()["loss"] != average.evaluate()["loss"]
    assert raw.evaluate("train")["loss"] != raw.evaluate("val")["loss"]
    assert all(math.isfinite(value) for value in raw.evaluate("train").values())


def test_a_damaged_checkpoint_is_passed_over_and_left_where_it_is(run):
    newest = run / "checkpoints" / "4"
    (newest / "state" / "manifest.ocdbt").write_bytes(b"broken")
    before = contents(run)
    lines = []
    opened = open_run(run, report=lines.append)
    assert opened.step == 2
    assert opened.evaluate() == pytest.approx(logged(run, 2), rel=1e-5)
    assert f"checkpoint {newest} is damaged" in lines[-1] and lines[-1].endswith("passed over")
    with pytest.raises(UserError, match=f"no sound checkpoint: {newest} is damaged"):
        quiet(run, step=4)
    assert contents(run) == before


@pytest.mark.parametrize("lost", [".", "state/ocdbt.process_0"])
def test_checkpoints_may_come_and_go_meanwhile(run, monkeypatch, lost):
    """A training saves 4, and removes 2 or is about to, just when 2 is read."""
    later, restore = shutil.move(run / "checkpoints" / "4", run / "later"), Checkpoints.restore_at

    def save_first(self, step, *args, **options):
        if step == 2:
            shutil.rmtree(run / "checkpoints" / "2" / lost)
            shutil.move(later, run / "checkpoints" / "4")
        return restore(self, step, *args, **options)

    monkeypatch.setattr(Checkpoints, "restore_at", save_first)
    lines = []
    assert open_run(run, report=lines.append).step == 4
    assert not any("damaged" in line for line in lines)


def test_a_run_may_have_a_number_for_a_name(run):
    assert quiet(run.rename(run.with_name("2024"))).step == 4


def without(*path):
    return lambda run: shutil.rmtree(run.joinpath(*path))


def more_fonts(run):
    fonts = shutil.copytree(json.loads((run / "config.json").read_text())["data"]["path"], run.with_name("fonts"))
    shutil.copy(TTF / "DejaVuSansMono.ttf", fonts)
    change(run / "config.json", data__path=str(fonts))


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (without(), {}, "run is no run folder: it has no config.json"),
        (without("checkpoints"), {}, "run' is no run with checkpoints"),
        (lambda run: [without("checkpoints", s)(run) for s in "24"], {}, "checkpoints has none"),
        (lambda run: None, {"step": 3}, "no such checkpoint; .* has those of steps 2, 4"),
        (lambda run: None, {"weights": "slow"}, "--weights = 'slow' is unknown: choose one of average, raw"),
        (lambda run: (run / "config.json").write_text("{"), {}, "config.json is not readable"),
        (lambda run: (run / "config.json").write_text("[1]"), {}, "config.json: no configuration of this version"),
        (lambda run: change(run / "config.json", optim={}), {}, "version of jaxvae: ema is missing or unknown"),
        (lambda run: change(run / "config.json", train__keep="3"), {}, "train.keep = '3': must be of the kind of 3"),
        (lambda run: change(run / "config.json", optim__ema={"average": {}}), {}, "optim.ema.average.decay is missing"),
        (lambda run: change(run / "config.json", task="glyphs"), {}, "config.task = 'glyphs' is unknown"),
        (lambda run: change(run / "config.json", model__zdim=6), {}, "is of another architecture: .*z_proj/kernel"),
        (more_fonts, {}, r"other examples than .*/run has seen \(train: fingerprint"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",  # functions would be named by address
)
def test_mistakes_are_named(run, damage, options, words):
    damage(run)
    before = contents(run)
    with pytest.raises(UserError, match=words):
        quiet(run, **options)
    assert contents(run) == before


def test_splits_are_named_and_compared_with_those_of_the_training(run):
    with pytest.raises(UserError, match="--split = 'test' is unknown: choose one of train, val"):
        quiet(run).evaluate("test")
    change(run / "data.json", splits__val__fingerprint="0" * 32)
    with pytest.raises(UserError, match=r"other examples than .* has seen \(val: fingerprint 000000000000 there"):
        quiet(run).evaluate()
    (run / "data.json").write_text("[]")
    with pytest.raises(UserError, match=r"data\.json has no fingerprint of the split 'val'"):
        quiet(run).evaluate()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["RUN is missing", "evaluate.py RUN"]),
        (["runs/none"], ["runs/none is no run folder"]),
        (["runs/a", "runs/b"], ["'runs/b' is not understood"]),
        (["runs/a", "--config=configs/glyph_vae.py"], ["--config is not for this script", "RUN/config.json"]),
        (["runs/a", "--config=configs/none.py"], ["configs/none.py"]),
        (["runs/a/checkpoints/2", "--step=4"], ["runs/a/checkpoints/2", "--step = 4"]),
        (["runs/a", "--step=two"], ["--step = two: must be a whole number"]),
        (["runs/a", "--weight=raw"], ["--weight is unknown: did you mean --weights?"]),
    ],
)
def test_mistakes_end_in_one_line(evaluate, arguments, parts):
    found, _ = evaluate(*arguments)
    assert found.returncode == 2, found.stderr[-2000:]
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line


def test_a_place_that_cannot_be_written_costs_no_numbers(evaluate, run, tmp_path):
    found, _ = evaluate(run, f"--json={tmp_path / 'nowhere' / 'x.json'}")
    assert found.returncode == 2
    assert "x.json cannot be written" in found.stderr and len(found.stderr.splitlines()) == 1
    assert f"loss              {np.float32(logged(run, 4)['loss']):.6g}" in found.stdout
