"""scripts/sample.py, encode.py and convert.py as a user runs them: what they write, and mistakes in one line."""

import shutil

import numpy as np
import pytest
from PIL import ImageFont
from safetensors.numpy import load_file
from tiny import ROOT

from jaxvae.train.evaluate_run import open_run


@pytest.fixture(scope="module")
def script(run_python):
    """Runs one of the scripts."""
    return lambda name, *arguments, **options: run_python(ROOT / "scripts" / name, *map(str, arguments), **options)


@pytest.fixture
def run(glyph_run, tmp_path):
    """A copy, to do with what a test likes."""
    return shutil.copytree(glyph_run, tmp_path / "run")


def test_samples_lie_in_the_run_and_the_font_can_be_used(script, run):
    found = script("sample.py", run, "--text=BAD FACE", "--font=DejaVuSans")
    assert found.returncode == 0, found.stderr[-2000:]
    out = run / "reconstruction-average-2"
    assert found.stdout.splitlines()[-1].endswith(f"written to {out}")
    assert f"{len('BADFCE')} outlines" in found.stdout and "trained on" in found.stdout
    font = ImageFont.truetype(out / "samples.ttf", 100)
    assert font.getname() == ("jaxvae reconstruction run", "Regular")
    assert font.getlength("BAD") > 150


def test_encodings_lie_in_the_run(script, run):
    found = script("encode.py", run, "--weights=raw", "--step=1")
    assert found.returncode == 0, found.stderr[-2000:]
    with np.load(run / "encoding-raw-1.npz") as arrays:
        assert arrays["mu"].shape == arrays["logvar"].shape
        assert f"{len(arrays['mu'])} glyphs, 4 dimensions" in found.stdout
    assert (run / "encoding-raw-1.png").exists()


def test_weights_go_out_and_come_back(script, run, tmp_path):
    out, again = tmp_path / "weights.safetensors", tmp_path / "again"
    found = script("convert.py", "glyph_vae", run, out, "--weights=raw")
    assert found.returncode == 0, found.stderr[-2000:]
    assert f"{len(load_file(out))} tensors, raw weights of step 2 written to {out}" in found.stdout
    config = f"--config={ROOT / 'configs' / 'glyph_vae.py'}:quickstart"
    options = ["--config.data.charset=U+0041-0046", "--config.data.image_size=16"]
    found = script("convert.py", "glyph_vae", out, again, config, *options)
    assert found.returncode == 0, found.stderr[-2000:]
    assert f"heads 2 from {out}" in found.stdout
    assert "scripts/convert.py glyph_vae" in (again / "command.txt").read_text()
    ours, theirs = (open_run(path, "raw", report=lambda line: None).variables["params"] for path in (again, run))
    np.testing.assert_array_equal(
        ours["decoder"]["z_proj"]["kernel"].tobytes(), theirs["decoder"]["z_proj"]["kernel"].tobytes()
    )


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("sample.py", [], ["RUN is missing", "sample.py RUN"]),
        ("sample.py", ["runs/none"], ["runs/none is no run folder"]),
        ("sample.py", ["runs/none", "--kind=dream"], ["--kind = 'dream'", "interpolation, prior, reconstruction"]),
        ("sample.py", ["runs/none", "--num=-1"], ["--num=-1: must be from 0"]),
        ("sample.py", ["RUN", "--text=AB字"], ["字", "U+5B57", "leave them out"]),
        ("encode.py", ["RUN", "--data=x.ttf"], ["--out is missing"]),
        ("encode.py", ["RUN", "--charset=ascii"], ["--charset=ascii is for --data"]),
        ("convert.py", ["glyph_vae", "x.pt"], ["OUT is missing", "convert.py SYSTEM IN OUT"]),
        ("convert.py", ["vae", "x.pt", "run"], ["SYSTEM = 'vae' is unknown", "glyph_vae"]),
        ("convert.py", ["glyph_vae", "x.pt", "run"], ["IN = 'x.pt': there is no such file"]),
        ("convert.py", ["glyph_vae", "RUN", "x.pt"], ["OUT = 'x.pt'", "become a .safetensors"]),
    ],
)
def test_mistakes_of_use_end_in_one_line(script, glyph_run, name, arguments, parts):
    found = script(name, *(word.replace("RUN", str(glyph_run)) for word in arguments))
    assert found.returncode == 2, found.stderr[-2000:]
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line
