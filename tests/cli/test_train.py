"""scripts/train.py as a user runs it: a whole run, continuing, and every mistake in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import contents
from tiny import CHANGES, ROOT

from jaxvae.run import read_rows
from jaxvae.train.lock import RunLock

CONFIG = "configs/glyph_vae.py"
TINY = [f"--config.{key}={value}" for key, value in CHANGES["glyph_vae"].items()]
SHORT = ["--config.train.total_steps=4", "--config.train.log_every=2", "--config.train.save_every=2"]


@pytest.fixture(scope="module")
def script(run_python):
    """Runs scripts/train.py with arguments in a folder of its own."""

    def run(*arguments, cwd=ROOT):
        config = [a.replace(CONFIG, str(ROOT / CONFIG)) for a in arguments]
        return run_python(ROOT / "scripts" / "train.py", *config, cwd=cwd)

    return run


def refused(found, *parts):
    """One line on stderr that holds all of `parts`, and status 2."""
    assert found.returncode == 2, found.stderr[-2000:]
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line


@pytest.fixture(scope="module")
def run_folder(script, tmp_path_factory):
    """A finished tiny run in the default place."""
    home = tmp_path_factory.mktemp("home")
    found = script(f"--config={CONFIG}:quickstart", *TINY, *SHORT, cwd=home)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "finished at step 4" in found.stdout
    return home / "runs" / "glyph_vae-quickstart"


def test_a_full_disk_ends_the_run_in_one_line(tmp_path):
    # No file above 300 KiB, as on a disk that fills; the weights are larger.
    limited = ["bash", "-c", 'ulimit -f 300 && exec "$@"', "-", sys.executable, str(ROOT / "scripts" / "train.py")]
    found = subprocess.run(
        [*limited, f"--config={ROOT / CONFIG}:quickstart", *TINY, *SHORT, f"--workdir={tmp_path / 'run'}"],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
    )
    refused(found, "checkpoint", "could not be written", "File too large", "there is none before it")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [0, 2, 4]


def test_a_run_explains_itself(run_folder):
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {
        "config.json", "command.txt", "host.json", "versions.json", "data.json", "metrics.jsonl", "samples",
        "checkpoints", "report.md", "curves.png",
    }  # fmt: skip
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = read_rows(run_folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert all("train/loss" in row for row in rows[1:])
    assert {"val/loss", "val/iou", "val/kl", "val/active_units"} <= rows[0].keys() & rows[-1].keys()
    assert json.loads((run_folder / "config.json").read_text())["model"]["embed"] == 16
    report = (run_folder / "report.md").read_text()
    for text in ("untrained", "z of another example", "iou", "curves.png", "samples/reconstruction-0000004.png"):
        assert text in report
    splits = json.loads((run_folder / "data.json").read_text())["splits"]
    assert not set(splits["train"]["examples"]) & set(splits["val"]["examples"])


def test_the_same_command_continues_and_a_longer_one_goes_on(script, run_folder, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(run_folder.parents[1], home)
    longer = [*SHORT, "--config.train.total_steps=6"]
    found = script(f"--config={CONFIG}:quickstart", *TINY, *longer, cwd=home)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "continues from the checkpoint at step 4" in found.stdout
    assert "train.total_steps: 4 -> 6; the cosine schedule now falls until step 6 instead of 4" in found.stdout
    rows = read_rows(home / "runs" / "glyph_vae-quickstart" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4, 6]


def test_another_config_in_the_folder_is_refused_with_the_difference(script, run_folder):
    before = contents(run_folder)
    found = script(f"--config={CONFIG}:quickstart", *TINY, "--config.optim.lr=0.5", cwd=run_folder.parents[1])
    refused(found, "runs/glyph_vae-quickstart", "optim.lr", "0.5", "--workdir")
    assert contents(run_folder) == before


def test_a_checkpoint_of_another_architecture_is_refused(script, run_folder, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(run_folder.parents[1], home)
    path = home / "runs" / "glyph_vae-quickstart" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["zdim"] = 6
    path.write_text(json.dumps(config))
    before = contents(home)
    found = script(f"--config={CONFIG}:quickstart", *TINY, *SHORT, "--config.model.zdim=6", cwd=home)
    refused(found, "checkpoint", "another architecture", "z_proj/kernel", "[4, 16]", "[6, 16]")
    assert contents(home) == before


def test_a_damaged_checkpoint_is_passed_over_and_if_all_are_refused(script, run_folder, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(run_folder.parents[1], home)
    run = home / "runs" / "glyph_vae-quickstart"
    (run / "checkpoints" / "4" / "state" / "manifest.ocdbt").write_bytes(b"broken")
    found = script(f"--config={CONFIG}:quickstart", *TINY, *SHORT, cwd=home)
    assert found.returncode == 0 and found.stderr == "", found.stderr[-2000:]
    assert f"checkpoint {run / 'checkpoints' / '4'} is damaged" in found.stdout
    assert "set aside as 4.damaged: continues from step 2" in found.stdout and "finished at step 4" in found.stdout
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [0, 2, 4]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"2", "4", "4.damaged"}
    for step in ("2", "4"):
        (run / "checkpoints" / step / "state" / "manifest.ocdbt").write_bytes(b"broken")
    before = contents(home)
    found = script(f"--config={CONFIG}:quickstart", *TINY, *SHORT, cwd=home)
    refused(found, "checkpoints/4 is damaged", "no sound one before it", "--workdir")
    assert contents(home) == before


def test_a_second_training_in_the_folder_is_refused(script, run_folder, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(run_folder.parents[1], home)
    with RunLock(home / "runs" / "glyph_vae-quickstart") as other:
        other.keep()
        before = contents(home)
        found = script(f"--config={CONFIG}:quickstart", *TINY, *SHORT, cwd=home)
    refused(found, "runs/glyph_vae-quickstart is in use", f"process {os.getpid()} on ", "--workdir")
    assert contents(home) == before


def test_presets_are_listed_a_line_each(script):
    found = script(f"--config={CONFIG}", "--list_presets")
    assert found.returncode == 0
    names = [line.split()[0] for line in found.stdout.splitlines()]
    assert names == [
        "high_quality", "default", "balanced", "memory_limited", "conservative", "aggressive", "legacy", "small",
        "quickstart",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([f"--config={CONFIG}:hq"], ["'hq'", "high_quality", "quickstart"]),
        ([f"--config={CONFIG}", "--config.preset=small"], ["config.preset", f"{CONFIG}:PRESET"]),
        ([f"--config={CONFIG}", '--config.model={"embed":64}'], ["config.model", "group", "--config.model."]),
        (["--config="], ["--config", "configs/glyph_vae.py"]),
        (["--config=README.md"], ["README.md", "configs/glyph_vae.py"]),
        ([f"--config={CONFIG}", "-config.optim.lrr=3"], ["optim.lrr", "optim.lr"]),
        ([f"--config={CONFIG}", "--config.seed=-1"], ["seed", "-1"]),
        ([f"--config={CONFIG}", "--config.loss.beta=inf"], ["loss.beta", "finite"]),
        ([f"--config={CONFIG}", f"--config.model.zdim={10**25}"], ["model.zdim", "65536"]),
        (["--config=configs/glyphs.py"], ["configs/glyphs.py", "configs/glyph_vae.py"]),
        ([], ["--config"]),
        ([f"--config={CONFIG}", "--config.model.declayers=3"], ["model.declayers", "model.dec_layers"]),
        ([f"--config={CONFIG}", "--noconfig.data.rms"], ["data.rms", "data.rsm"]),
        (["--config=jaxvae/config.py"], ["jaxvae/config.py", "get_config"]),
        ([f"--config={CONFIG}", f"--config.seed={2**63}"], ["seed", "4294967295"]),
        ([f"--config={CONFIG}", "--config.data.image_size=100000000"], ["data.image_size", "4096"]),
        ([f"--config={CONFIG}", "--config.data.sdf_clip_px=1e30"], ["data.sdf_clip_px", "128"]),
        ([f"--config={CONFIG}", "--config.data.sdf=exact"], ["data.sdf", "'exact'", "analytic, raster"]),
        ([f"--config={CONFIG}", "--config.monitors.range.kind=plateau"], ["monitors.range.kind", "cooldown"]),
        ([f"--config={CONFIG}", "--config.data.workers=0"], ["data.workers = 0", "above 0"]),
        ([f"--config={CONFIG}", "--config.train.keep_every=1500"], ["train.save_every", "keep_every = 1500"]),
        ([f"--config={CONFIG}", "--config.train.steps_per_dispatch=60"], ["train.steps_per_dispatch = 60", "50"]),
        ([f"--config={CONFIG}", "--config.lr=3"], ["config.lr", "optim.lr"]),
        ([f"--config={CONFIG}", "--config.model.dec_layers=ten"], ["model.dec_layers = ten: must be a whole number"]),
        ([f"--config={CONFIG}", "--config.optim.lr=fast"], ["optim.lr = fast: must be a number"]),
        ([f"--config={CONFIG}", "--config.data.rsm=maybe"], ["data.rsm = maybe: must be true or false"]),
        ([f"--config={CONFIG}", "--config.data.batch_size=0"], ["data.batch_size = 0: must be a whole number above 0"]),
        ([f"--config={CONFIG}", "--config.model.embed=65"], ["model.embed = 65", "divisible by 4"]),
        ([f"--config={CONFIG}", "--config.model.heads=7"], ["model.heads", "7", "embed = 512", "8, 16"]),
        ([f"--config={CONFIG}", "--config.optim.accum=3"], ["optim.accum", "3", "batch_size = 16"]),
        ([f"--config={CONFIG}", "--config.optim.name=adamax"], ["optim.name", "adamax", "adamw"]),
        ([f"--config={CONFIG}", "--config.parallel.fsdp=3"], ["parallel.fsdp", "3", "devices"]),
        ([f"--config={CONFIG}", "--config.data.charset=klingon"], ["klingon", "latin"]),
        ([f"--config={CONFIG}", "--workdr=x"], ["--workdr", "--workdir"]),
        ([f"--config={CONFIG}", "train"], ["'train'"]),
        ([f"--config={CONFIG}", "--config.data.path=nowhere.ttf"], ["nowhere.ttf"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_mistakes_end_in_one_line(script, arguments, parts, tmp_path):
    workdir = tmp_path / "run"
    refused(script(*arguments, *([f"--workdir={workdir}"] if arguments else [])), *parts)
    assert not workdir.exists(), "nothing may be left behind"


def npz(path: Path, **changes) -> Path:
    """A data set in the original's format, of two triangles."""
    commands = np.array([[6, 1, 2, 2, 5, 8]] * 2, np.int64)
    arrays = {
        "seq_cmd": commands,
        "seq_arg": np.random.default_rng(0).uniform(-1, 1, (2, 6, 4)).astype(np.float32),
        "seq_mask": np.ones((2, 6), bool),
        "img_dt": np.zeros((2, 128, 128), np.float16),
        "contour_ids": np.zeros((2, 6), np.int64),
    }
    np.savez(path, **(arrays | changes))
    return path


def test_bad_data_is_named(script, tmp_path):
    def data(path):
        return script(f"--config={CONFIG}:quickstart", f"--config.data.path={path}", f"--workdir={tmp_path / 'run'}")

    fake = tmp_path / "fake.ttf"
    fake.write_text("not a font")
    refused(data(fake), "fake.ttf")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(data(empty), str(empty))
    coords = np.zeros((2, 6, 4), np.float32)
    coords[1, 2, 0] = np.nan
    # One row is left, too few for a split: the message says what became of the other.
    refused(data(npz(tmp_path / "nan.npz", seq_arg=coords)), "val_fraction", "nan/row1", "seq_arg[1, 2, 0] = nan")
    far = npz(tmp_path / "far.npz", seq_arg=np.full_like(coords, 9))
    refused(data(far), "far.npz", "2 rows", "beyond 4", "far/row0", "seq_arg[0, 0, 0] = 9.0")
    refused(data(npz(tmp_path / "short.npz", seq_mask=np.ones((2, 5), bool))), "short.npz", "seq_mask")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_left_alone(script, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refused(script(f"--config={CONFIG}:quickstart", f"--workdir={tmp_path}"), str(tmp_path), "holds no run")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
