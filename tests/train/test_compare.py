"""A model beside its baselines: rows and groups that agree with what evaluation and hand computation give."""

import json

import numpy as np
import pytest
from tiny import tiny_config

from jaxvae.data.glyphs import length_group, nearest, script_of
from jaxvae.errors import UserError
from jaxvae.health.ablation import LATENT_NAMES, UNTRAINED
from jaxvae.train.compare import compare, worst
from jaxvae.train.evaluate_run import open_run
from jaxvae.train.loop import train

NEAREST = "the nearest training glyph"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    # Letters and digits, so that there are two scripts.
    config = tiny_config("glyph_vae", data__charset="U+0030-0033,U+0041-0044")
    run = train(config, tmp_path_factory.mktemp("runs") / "tiny")
    return open_run(run.folder, report=lambda line: None)


@pytest.fixture(scope="module")
def found(opened):
    return compare(opened)


def test_the_first_rows_are_what_evaluation_and_report_say(opened, found):
    rows = found["groups"][0]["rows"]
    assert list(rows) == [*LATENT_NAMES.values(), UNTRAINED, NEAREST]
    metrics = opened.evaluate()
    for name, value in rows["z = posterior mean"].items():
        assert value == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), name
    report = json.loads((opened.run.folder / "report.json").read_text())["latents"]
    for row in report:
        for name, value in rows[row["latent"]].items():
            assert value == pytest.approx(float(row[name]), rel=2e-3, abs=1e-6), (row["latent"], name)


def test_groups_share_out_the_examples(opened, found):
    source = opened.parts.sources["val"]
    by = {}
    for group in found["groups"]:
        by.setdefault(group["by"], []).append(group)
    assert by.keys() == {"", "script", "length"}
    assert {group["group"] for group in by["script"]} == {"Latin", "Common"}
    for groups in by.values():
        assert sum(group["examples"] for group in groups) == len(source)
        # The mean of all is the mean of groups, weighted by their examples.
        for row in ("z = posterior mean", NEAREST):
            mean = np.average([g["rows"][row]["closes"] for g in groups], weights=[g["examples"] for g in groups])
            assert mean == pytest.approx(found["groups"][0]["rows"][row]["closes"])
    assert len(found["examples"]) == len(source)


def test_a_training_glyph_is_nearest_to_itself(opened):
    glyphs = opened.parts.sources["train"].glyphs
    np.testing.assert_array_equal(nearest(glyphs[:5], glyphs), np.arange(5))


def test_the_nearest_training_glyph_is_a_sound_outline(opened, found):
    row = found["groups"][0]["rows"][NEAREST]
    assert row["closes"] == 1
    source, train = (opened.parts.sources[split] for split in ("val", "train"))
    at = nearest([source.glyph(0)], train.glyphs)[0]
    outlines = opened.parts.task.baselines(opened.parts.sources, "val")[NEAREST](np.array([0]))
    length = len(train.glyphs[at])
    np.testing.assert_array_equal(outlines.commands[0, :length], train.glyphs[at].commands)
    np.testing.assert_array_equal(outlines.mask[0], np.arange(outlines.mask.shape[1]) < length)


def test_the_worst_are_named():
    examples = {"a": {"iou": 0.5}, "b": {"iou": None}, "c": {"iou": 0.1}, "d": {"iou": 0.9}}
    assert worst(examples, "iou", 2) == {"c": 0.1, "a": 0.5}


def test_names_of_groups():
    assert [length_group(n) for n in (1, 16, 17, 256, 257)] == [
        "1 to 16 tokens",
        "1 to 16 tokens",
        "17 to 32 tokens",
        "129 to 256 tokens",
        "257 tokens and more",
    ]
    assert [script_of(ord(c)) for c in "A永α1"] == ["Latin", "Han", "Greek", "Common"]
    assert script_of(-1) == "unknown"


def test_a_split_that_does_not_exist_is_refused(opened):
    with pytest.raises(UserError, match="--split"):
        compare(opened, "test")
