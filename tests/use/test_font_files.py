"""Outlines as TrueType and SVG: what is written is what was drawn."""

from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from folders import contents, no_room_for_files_above
from fontTools.pens.recordingPen import RecordingPen
from fontTools.svgLib.path import parse_path
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from jaxvae import raster
from jaxvae.data.glyphs import embedded_fonts, load_glyphs, read_fonts
from jaxvae.data.glyphs.tokens import coordinate_mask
from jaxvae.outlines import HOLE, NEW, Command, L, M, Q, T, Z, to_commands
from jaxvae.use.font import FontGlyph, draw, write_font
from jaxvae.use.frames import UNITS_PER_EM, Frame
from jaxvae.use.svg import svg_document
from jaxvae.use.winding import winding_numbers

# A frame of a font of 2048 units per em whose square holds a line of 2384 units.
SQUARE = Frame(scale=1.8 / 2384, tx=-0.5, ty=-0.2, advance=1200.0, ascender=1901.0, descender=-483.0)
SIDE_PX = 192


def written(path, glyphs, frames, ascender=1901.0, descender=-483.0):
    """A font of glyphs of the data, and what was said."""
    found = [
        FontGlyph(f"g{i}", g.codepoint, to_commands(g.commands, g.coords, np.ones(len(g), bool), f.norm), f.advance)
        for i, (g, f) in enumerate(zip(glyphs, frames, strict=True))
    ]
    return write_font(path, "test font", found, ascender, descender)


@pytest.fixture(scope="module")
def serif():
    """Letters of DejaVu Serif, among them outlines with holes; none has contours that overlap."""
    font = next(path for path in embedded_fonts() if path.stem == "DejaVuSerif")
    glyphs, _ = load_glyphs(str(font), "U+0026,U+0038,U+0041-005A,U+0061-007A", 256)
    return font, glyphs


def em_coordinates(glyph):
    used = coordinate_mask(glyph.commands)
    return np.where(used, (glyph.coords - np.tile(glyph.norm[1:], 2)) / glyph.em, 0)


def test_outlines_and_metrics_survive_a_font_file(serif, tmp_path):
    font, glyphs = serif
    assert written(tmp_path / "copy.ttf", glyphs, map(Frame.of, glyphs)) == []
    found, skipped = read_fonts([tmp_path / "copy.ttf"], "all", 256)
    assert not len(skipped) - 1  # the space
    assert [g.codepoint for g in found] == [g.codepoint for g in glyphs]
    for ours, theirs in zip(found, glyphs, strict=True):
        np.testing.assert_array_equal(ours.commands, theirs.commands, theirs.label)
        np.testing.assert_allclose(em_coordinates(ours), em_coordinates(theirs), atol=1e-3, err_msg=theirs.label)
    copy, original = TTFont(tmp_path / "copy.ttf"), TTFont(font)
    for table, names in (("hhea", ("ascender", "descender")), ("head", ("unitsPerEm",))):
        assert [getattr(copy[table], n) for n in names] == [getattr(original[table], n) for n in names]
    advances = [[f["hmtx"][f.getBestCmap()[g.codepoint]][0] for g in glyphs] for f in (copy, original)]
    np.testing.assert_allclose(*advances, atol=1)
    assert copy["name"].getBestFamilyName() == "test font"


def test_a_font_is_written_alike_every_time_and_whole_or_not_at_all(serif, tmp_path):
    _, glyphs = serif
    frames = [Frame.of(glyph) for glyph in glyphs]
    for name in ("a.ttf", "b.ttf"):
        written(tmp_path / name, glyphs, frames)
    assert (tmp_path / "a.ttf").read_bytes() == (tmp_path / "b.ttf").read_bytes()
    before = contents(tmp_path)
    with no_room_for_files_above(1000), pytest.raises(OSError, match="too large"):
        written(tmp_path / "a.ttf", glyphs, frames)
    assert contents(tmp_path) == before


def test_other_units_per_em_become_ours(serif):
    _, glyphs = serif
    frame = Frame.of(glyphs[0])
    coarse = type(glyphs[0])(**vars(glyphs[0]) | {"norm": glyphs[0].norm * np.float32([2.048, 1, 1])})
    np.testing.assert_allclose(Frame.of(coarse), frame)
    assert frame.ascender - frame.descender == pytest.approx(2384) and UNITS_PER_EM == 2048


def test_frames_of_glyphs_that_say_little(serif):
    """A glyph of a file without norms, and one that was moved into the square."""
    _, glyphs = serif
    bare = type(glyphs[0])(**vars(glyphs[0]) | {"norm": np.float32([1, 0, 0]), "em": 2.0})
    frame = Frame.of(bare)
    right = bare.coords[:, 0].max() * UNITS_PER_EM / 2
    assert right < frame.advance < right + 0.2 * UNITS_PER_EM
    assert frame.ascender == -frame.descender
    low, high = Frame.of(glyphs[0]), Frame.of(glyphs[1])
    assert low.toward(high, 0.0) == low and low.toward(high, 1.0) == high


def pillow_inside(path, codepoint):
    """Pixels that Pillow covers by more than half, in the square of `SQUARE`."""
    px_per_em = SIDE_PX * SQUARE.scale / 2 * UNITS_PER_EM
    image = Image.new("L", (SIDE_PX, SIDE_PX))
    font = ImageFont.truetype(path, px_per_em, layout_engine=ImageFont.Layout.BASIC)
    origin = ((SQUARE.tx + 1) / 2 * SIDE_PX, (1 - SQUARE.ty) / 2 * SIDE_PX)
    ImageDraw.Draw(image).text(origin, chr(codepoint), font=font, fill=255, anchor="ls")
    return np.asarray(image) > 127


fill = jax.jit(raster.fill, static_argnums=3)


def test_pillow_draws_what_the_metric_fills(tmp_path):
    """Wild outlines: overlaps, contours within contours, open ones, tokens in any order."""
    rng, outlines, glyphs = np.random.default_rng(0), [], []
    for i in range(24):
        ids = rng.choice([M, L, Q, Q, L, Z, NEW, HOLE, T], 20).astype(np.int32)
        ids[:2] = NEW, M
        coords = np.clip(rng.normal(size=(20, 4)) * 0.35, -0.95, 0.95).astype(np.float32)
        outlines.append((ids, coords, np.ones(20, bool)))
        glyphs.append(FontGlyph(f"w{i}", 0xE000 + i, to_commands(*outlines[-1], SQUARE.norm), 1200.0))
    assert write_font(tmp_path / "wild.ttf", "wild", glyphs, 1901.0, -483.0) == []
    for glyph, outline in zip(glyphs, outlines, strict=True):
        ours, theirs = pillow_inside(tmp_path / "wild.ttf", glyph.codepoint), np.asarray(fill(*outline, SIDE_PX))
        assert abs(ours.sum() - theirs.sum()) < 0.02 * SIDE_PX**2 / 5, glyph.name
        # Only pixels of the border may differ: Pillow begins glyphs at whole pixels.
        inner = theirs.copy()
        for axis in (0, 1):
            for shift in (-1, 1):
                inner &= np.roll(theirs, shift, axis)
        assert ours[inner].mean() > 0.99, glyph.name


def test_overlaps_become_holes_by_the_even_odd_rule(tmp_path):
    """Two squares that turn the same way, one in the other: the inner one is a hole for the model."""

    def square(half):
        corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
        return [Command(M, corners[0]), *(Command(L, corner) for corner in corners[1:]), Command(Z, ())]

    write_font(
        tmp_path / "ring.ttf", "ring", [FontGlyph("ring", 0xE000, square(800.0) + square(400.0), 1000.0)], 1000.0, 0.0
    )
    glyphs = TTFont(tmp_path / "ring.ttf").getGlyphSet()
    pen = RecordingPen()
    glyphs["ring"].draw(pen)
    numbers = winding_numbers(pen, np.array([-600.0, 0.0, 600.0]), np.array([0.0]))
    assert (numbers != 0).tolist() == [[True, False, True]]


def contour(start, *drawn):
    return [("moveTo", (start,)), *drawn, ("closePath", ())]


@pytest.mark.parametrize(
    ("commands", "drawn"),
    [
        ([], []),
        ([Command(L, (1.0, 1.0)), Command(Z, ())], []),  # before the first M
        ([Command(M, (1.0, 1.0)), Command(Z, ())], []),  # nothing drawn
        (
            # closed by M, and by the end
            [Command(M, (0.0, 0.0)), Command(L, (1.0, 1.0)), Command(M, (2.0, 2.0)), Command(L, (3.0, 3.0))],
            [*contour((0.0, 0.0), ("lineTo", ((1.0, 1.0),))), *contour((2.0, 2.0), ("lineTo", ((3.0, 3.0),)))],
        ),
        (
            # goes on where the last contour began
            [Command(M, (0.0, 0.0)), Command(Z, ()), Command(Q, (1.0, 1.0, 2.0, 2.0))],
            contour((0.0, 0.0), ("qCurveTo", ((1.0, 1.0), (2.0, 2.0)))),
        ),
    ],
)
def test_contours_of_predicted_commands(commands, drawn):
    pen = RecordingPen()
    draw(commands, pen)
    assert pen.value == drawn


def test_a_glyph_too_large_for_truetype_is_named(tmp_path):
    far = [Command(M, (0.0, 0.0)), Command(L, (4e4, 0.0)), Command(L, (0.0, 9.0)), Command(Z, ())]
    (note,) = write_font(tmp_path / "far.ttf", "far", [FontGlyph("far", 0xE000, far, 10.0)], 1000.0, 0.0)
    assert note.startswith("far: left empty")


def without_closing_lines(drawn):
    """The reader of SVG draws the line that closes a contour; pens do it by closePath alone."""
    kept, start = [], None
    for i, (name, points) in enumerate(drawn):
        start = points[0] if name == "moveTo" else start
        if not (name == "lineTo" and points[0] == start and drawn[i + 1][0] == "closePath"):
            kept.append((name, points))
    return kept


def test_svg_holds_the_same_numbers(serif):
    _, glyphs = serif
    for glyph in glyphs:
        frame = Frame.of(glyph)
        commands = to_commands(glyph.commands, glyph.coords, np.ones(len(glyph), bool), frame.norm)
        root = ElementTree.fromstring(svg_document(commands, frame))
        path = root.find("{http://www.w3.org/2000/svg}path")
        assert path.get("fill-rule") == "evenodd"
        found, expected = RecordingPen(), RecordingPen()
        parse_path(path.get("d"), found)
        draw(commands, expected)
        ours, theirs = without_closing_lines(found.value), expected.value
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        for (_, points), (_, same) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(np.ravel(points), np.ravel(same), atol=5.1e-4)
        left, top, width, height = map(float, root.get("viewBox").split())
        assert (left, -top, width, height) == pytest.approx((0, 1901, frame.advance, 2384), abs=1e-2)
