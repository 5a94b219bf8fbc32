"""Samples of a run: the glyphs asked for, from the z that is claimed, in files that agree."""

import json

import numpy as np
import pytest
import toy
from folders import contents, no_room_for_files_above
from fontTools.ttLib import TTFont
from PIL import Image

from jaxvae.errors import UserError
from jaxvae.outlines import to_commands, to_svg_path
from jaxvae.train.evaluate_run import open_run
from jaxvae.use import pictures
from jaxvae.use.frames import Frame
from jaxvae.use.glyph_model import GlyphModel, require_glyph_vae
from jaxvae.use.samples import from_prior, interpolations, reconstructions, source_outline, straight_line
from jaxvae.use.sampling import Request, write_samples
from jaxvae.use.selection import candidates, choose_at_random, choose_text

NOTHING = Request("reconstruction", text="", font="", split="", num=0, seed=0)


@pytest.fixture(scope="module")
def opened(glyph_run):
    return open_run(glyph_run, report=lambda line: None)


@pytest.fixture(scope="module")
def model(opened):
    return GlyphModel(opened.parts.task, opened.variables)


@pytest.fixture(scope="module")
def everything(opened):
    return candidates(opened.parts.sources, "all", "")


def outlines(samples):
    """Commands, coordinates and frames where they mean something."""
    return [(s.outline.commands[s.outline.mask], s.outline.coords[s.outline.mask], s.outline.frame) for s in samples]


def assert_same(ours, theirs):
    for (commands, coords, frame), (same_commands, same_coords, same_frame) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(commands, same_commands)
        np.testing.assert_allclose(coords, same_coords, atol=1e-4)
        assert frame == pytest.approx(same_frame)


def test_interpolations_end_in_the_reconstructions(model, everything):
    a, b, c = everything[0], everything[17], everything[40]
    rows = interpolations(model, [(a, b), (b, c)], 5)
    assert [len(row) for row in rows] == [5, 5]
    ends = [rows[0][0], rows[0][-1], rows[1][0], rows[1][-1]]
    assert_same(outlines(ends), outlines(reconstructions(model, [a, b, b, c])))
    # In between the decoder is given what it sees of the nearer end.
    assert [sample.teacher for sample in rows[0]] == [a, a, b, b, b]
    means = model.posterior([a.glyph, b.glyph]).mean
    line = straight_line(*means, np.linspace(0, 1, 5))
    np.testing.assert_array_equal(line[[0, -1]], means)
    np.testing.assert_allclose(line[2], means.mean(0), rtol=1e-5)


def test_reconstructions_are_those_of_the_task(model, opened, everything):
    """One by one, from the posterior's mean, whatever they are batched with."""
    chosen = everything[:5]
    together = outlines(reconstructions(model, chosen))
    alone = [outlines(reconstructions(model, [each]))[0] for each in chosen]
    assert_same(together, alone)
    mean = model.posterior([each.glyph for each in chosen]).mean
    assert np.abs(mean).max() > 0
    other = outlines(from_prior(model, chosen, seed=3))
    assert not np.allclose(other[0][1], together[0][1])


def test_draws_from_the_prior_follow_the_seed(model, everything):
    glyphs = [each.glyph for each in everything[:70]]  # more than go at once
    z = model.prior(glyphs, 1)
    np.testing.assert_array_equal(z, model.prior(glyphs, 1))
    assert not np.allclose(z, model.prior(glyphs, 2))
    assert len({row.tobytes() for row in z}) == len(glyphs)
    assert abs(z.mean()) < 0.3 and 0.8 < z.std() < 1.2


def test_text_is_taken_from_one_font(everything):
    chosen = choose_text(everything, "FA CE")
    assert [each and chr(each.glyph.codepoint) for each in chosen] == ["F", "A", None, "C", "E"]
    assert len({each.glyph.font for each in chosen if each}) == 1
    few = [each for each in everything if each.glyph.font != "DejaVuSerif" or each.glyph.name != "F"]
    assert {each.glyph.font for each in choose_text(few, "F") if each} != {"DejaVuSerif"}


def test_random_glyphs_follow_the_seed(everything):
    chosen = choose_at_random(everything, 7, seed=1)
    assert chosen == choose_at_random(everything, 7, seed=1) != choose_at_random(everything, 7, seed=2)
    assert len(set(chosen)) == 7
    assert choose_at_random(everything, 10_000, seed=1) == everything


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "AÖ B字"}, r"no font of the data has all characters, and \S+ lacks 'Ö' U\+00D6, '字' U\+5B57"),
        ({"text": "AZ", "font": "DejaVuSans"}, r"--text: DejaVuSans lacks 'Z' U\+005A: leave them out"),
        ({"text": "  "}, "--text=.* has no character: give at least one"),
        ({"font": "DejaVuSanz", "split": "all"}, "--font = 'DejaVuSanz' is unknown: did you mean 'DejaVuSans'"),
        ({"split": "test"}, "--split = 'test' is unknown: choose one of all, train, val"),
        ({"kind": "interpolation", "num": 1}, "--num=1: an interpolation has at least its two ends"),
        ({"kind": "interpolation", "text": "A"}, "an interpolation needs two characters, or one and two fonts"),
        ({"kind": "interpolation", "font": "DejaVuSans,DejaVuSerif"}, "one font, or two and a --text"),
    ],
)
def test_what_the_data_lack_is_named_and_nothing_is_left(opened, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        write_samples(opened, NOTHING._replace(**changes), tmp_path / "out", "command")
    assert contents(tmp_path) == {}


def test_a_run_of_another_system_is_refused():
    config = toy.get_config()
    with pytest.raises(UserError, match="runs/x is a run of toy: this script is for runs of glyph_vae"):
        require_glyph_vae(toy.ToyTask(config), config, "runs/x")


def test_picture_svg_font_and_list_agree(opened, model, tmp_path):
    request = NOTHING._replace(text="DEAF BEAD", font="DejaVuSerif")
    said = write_samples(opened, request, tmp_path / "out", "command")
    found = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert "the decoder saw z and the length of the source" in said
    assert [row["codepoint"] for row in found["samples"]] == [f"U+{ord(c):04X}" for c in "DEAFB"]  # each once
    splits = {split: {source.name(i) for i in range(len(source))} for split, source in opened.parts.sources.items()}
    assert all(row["teacher"] in splits[row["split"]] for row in found["samples"])
    font = TTFont(tmp_path / "out" / "samples.ttf")
    assert set(font.getBestCmap()) == {ord(" "), *map(ord, "DEAFB")}
    chosen = [each for each in choose_text(candidates(opened.parts.sources, "all", "DejaVuSerif"), "DEAFB") if each]
    for row, sample in zip(found["samples"], reconstructions(model, chosen), strict=True):
        assert f'd="{to_svg_path(sample.commands())}"' in (tmp_path / "out" / row["file"]).read_text()
        advance, _ = font["hmtx"][row["file"].removesuffix(".svg")]
        assert advance == round(Frame.of(sample.teacher.glyph).advance)
    with Image.open(tmp_path / "out" / "samples.png") as image:
        assert image.size[0] >= pictures.text([[source_outline(each) for each in chosen]]).shape[1]


def test_prior_and_interpolation_have_private_code_points(opened, tmp_path):
    for kind, count in (("prior", 3), ("interpolation", 4)):
        out = tmp_path / kind
        write_samples(opened, NOTHING._replace(kind=kind, num=count), out, "command")
        assert sorted(TTFont(out / "samples.ttf").getBestCmap()) == [32, *range(0xE000, 0xE000 + count)]
        assert len(list(out.glob("*.svg"))) == count


def test_the_source_line_is_the_text(everything):
    """Squares, sizes and pens of the picture put glyphs where their coordinates say."""
    glyph = next(each for each in everything if each.glyph.codepoint == ord("E") and each.glyph.font == "DejaVuSans")
    outline = source_outline(glyph)
    picture = pictures.text([[outline, None, outline]])
    ink = np.flatnonzero((picture < 0.5).any(0))
    px = pictures.TEXT_PX_PER_EM / 2048
    left = min(x for _, args in to_commands(*outline[:3], outline.frame.norm) for x in args[::2] if args)
    blank = pictures.BLANK_EM * 2048
    assert ink[0] - pictures.MARGIN_PX == pytest.approx(left * px, abs=1.5)
    second = ink[np.flatnonzero(np.diff(ink) > 10)[-1] + 1]
    assert second - ink[0] == pytest.approx((outline.frame.advance + blank) * px, abs=1.5)
    rows = np.flatnonzero((picture < 0.5).any(1))
    assert rows[-1] - rows[0] + 1 == pytest.approx(1493 * px, abs=2)  # the height of a capital in DejaVu Sans


def test_long_texts_are_broken_in_the_same_places(everything, monkeypatch):
    monkeypatch.setattr(pictures, "LINE_PX", 150)
    outline = source_outline(everything[0])
    narrow = outline._replace(frame=outline.frame._replace(advance=100.0))
    picture = pictures.text([[outline] * 5, [narrow] * 5])
    assert picture.shape[1] <= 150 + 2 * pictures.MARGIN_PX
    assert picture.shape[0] == 2 * 2 * pictures.text([[outline]]).shape[0]  # three, then two; above and below


def test_a_folder_is_replaced_if_it_is_ours(opened, tmp_path):
    out = tmp_path / "out"
    request = NOTHING._replace(num=4, split="train")
    write_samples(opened, request, out, "command")
    with no_room_for_files_above(2000), pytest.raises(UserError, match="out cannot be written"):
        write_samples(opened, request, out, "command")
    assert len(list(out.glob("*.svg"))) == 4 and [path.name for path in tmp_path.iterdir()] == ["out"]
    write_samples(opened, NOTHING._replace(num=2), out, "command")
    assert len(list(out.glob("*.svg"))) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for place, words in (("mine", "holds something else"), ("mine/notes.txt/x", "cannot be written")):
        with pytest.raises(UserError, match=words):
            write_samples(opened, NOTHING, tmp_path / place, "command")
    assert contents(tmp_path / "mine") == {"notes.txt": b"mine"}
