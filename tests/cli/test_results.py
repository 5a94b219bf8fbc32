"""scripts/results.py: a page from finished runs."""

import json
import shutil

import pytest
from tiny import ROOT, tiny_config

from jaxvae.errors import UserError
from jaxvae.train.loop import train
from jaxvae.train.results import metrics, shortcomings, write_results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tiny_config("glyph_vae"), tmp_path_factory.mktemp("runs") / "tiny", "the command").folder


def script(run_python, *arguments):
    return run_python(ROOT / "scripts" / "results.py", *arguments)


def test_a_page_holds_commands_baselines_shortcomings_and_pictures(run, run_python, tmp_path):
    page = tmp_path / "results" / "glyph_vae.md"
    found = script(run_python, str(run), f"--out={page}")
    assert found.returncode == 0, found.stderr[-2000:]
    text = page.read_text()
    compared = json.loads(next(run.glob("comparison-val-*.json")).read_text())
    for row, scores in compared["groups"][0]["rows"].items():
        assert f"| {row} | " in text and f"{scores['iou']:.4g} |" in text
    assert "### iou by script" in text and "### iou by length" in text
    assert "```\nthe command\n```" in text and "Where it falls short" in text
    cost = json.loads((run / "report.json").read_text())["cost"]
    assert f"{cost['parameters']:,} parameters" in text and "An update took" in text
    pictures = {path.name: path for path in page.parent.glob("*.png")}
    assert pictures.keys() == {"glyph_vae-curves.png", "glyph_vae-tiny-reconstruction.png"}
    assert all(f"]({name})" in text for name in pictures)
    newest = sorted((run / "samples").glob("*.png"))[-1]
    assert pictures["glyph_vae-tiny-reconstruction.png"].read_bytes() == newest.read_bytes()


def test_runs_stand_side_by_side(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again, ignore=shutil.ignore_patterns("comparison-*"))
    text = write_results([run, again], tmp_path / "page.md", "Some words.", baselines=False).read_text()
    latents = json.loads((run / "report.json").read_text())["latents"]
    iou = {row["latent"]: row["iou"] for row in latents}
    assert f"| iou | {iou['z = posterior mean']} | {iou['z = posterior mean']} |" in text
    assert f"| iou, z of another example | {iou['z of another example']} |" in text
    assert text.index("Some words.") < text.index("## Side by side") < text.index("## tiny") < text.index("## again")
    assert not list(again.glob("comparison*"))
    with pytest.raises(UserError, match="must have other names"):
        write_results([run, run], tmp_path / "page.md")


def test_what_is_no_finished_run_is_refused(run_python, run, tmp_path):
    for arguments, words in (
        ([str(tmp_path), "--out=x.md"], "is no run folder"),
        ([str(run)], "--out is missing"),
        (["--out=x.md"], "RUN[,RUN...] is missing"),
    ):
        found = script(run_python, *arguments)
        assert found.returncode == 2 and words in found.stderr and len(found.stderr.splitlines()) == 1


def test_a_loss_that_was_better_before_is_said():
    rows = [
        {"step": 0, "val/loss": 9.0, "val/iou": 0.1},
        {"step": 10, "val/loss": 3.0, "train/loss": 2.5},
        {"step": 20, "val/loss": 4.0, "val/iou": 0.5, "train/loss": 2.0},
    ]
    first, second = shortcomings(rows)
    assert "is 4 at the end, and was 3 at step 10" in first and "2.0 times the 2 of" in second
    assert shortcomings(rows[:2])[0].endswith("its lowest.")
    assert metrics(rows)[0] == {"metric": "loss", "validation, untrained": "9", "validation": "4", "training": "2"}
