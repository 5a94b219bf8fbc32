"""Reading glyphs from font files; the fonts are built here, or are the ones that matplotlib carries."""

import errno
import functools
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTCollection, TTFont
from fontTools.ttLib.tables._g_l_y_f import Glyph as EmptyGlyph
from glyph_fonts import UPM, build, draw
from hypothesis import given
from hypothesis import strategies as st

from jaxvae.data.glyphs import embedded_fonts, find_fonts, load_glyphs, outline_digest, read_fonts
from jaxvae.data.glyphs.tokens import Contour, coordinate_mask, tokens_from_contours
from jaxvae.errors import UserError
from jaxvae.outlines import END, HOLE, NEW, L, M, Q, Z, check_prefix

CLOCKWISE = [(100, 0), (100, 700), (500, 700), (500, 0)]
INNER = [(200, 100), (400, 100), (400, 600), (200, 600)]
RING = [NEW, M, L, L, L, Z, HOLE, M, L, L, L, Z, END]


def ring(pen):
    draw(pen, CLOCKWISE, INNER)


def counter_clockwise_ring(pen):
    draw(pen, CLOCKWISE[::-1], INNER[::-1])


@pytest.fixture
def font(tmp_path):
    def save(name="Test.ttf", **glyphs):
        build(**glyphs).save(tmp_path / name)
        return tmp_path / name

    return save


def read_one(path, charset="all"):
    (glyph,), skipped = read_fonts([path], charset, 256)
    assert not len(skipped)
    return glyph


def test_a_ring_is_an_outer_contour_and_a_hole(font):
    glyph = read_one(font(o=ring))
    assert glyph.commands.tolist() == RING
    assert glyph.contour_ids.tolist() == [0] * 6 + [1] * 7
    assert glyph.topology.tolist() == [1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4]
    assert check_prefix(glyph.commands, np.ones(len(glyph), bool)).ok
    assert (glyph.name, glyph.font, glyph.codepoint, glyph.label) == ("o", "Test", 0x6F, "Test/o U+006F")


def test_either_winding_gives_the_same_holes(font):
    clockwise = read_one(font(o=ring))
    cff = read_one(font("Test.otf", is_cff=True, o=counter_clockwise_ring))
    assert clockwise.commands.tolist() == cff.commands.tolist() == RING


def test_the_largest_contour_is_filled_wherever_it_stands():
    def square(side, clockwise):
        points = [(0, 0), (0, side), (side, side), (side, 0)][:: 1 if clockwise else -1]
        return Contour([M, L, L, L], [(*p, 0, 0) for p in points])

    commands, _, _ = tokens_from_contours([square(2, False), square(9, True), square(1, True)])
    assert commands[np.isin(commands, (NEW, HOLE))].tolist() == [HOLE, NEW, NEW]


def test_area_of_curves_is_exact():
    # Under the parabola y = x (2 - x) on [0, 2]: 4 / 3, and clockwise, as it rises first.
    hill = Contour([M, Q], [(0, 0, 0, 0), (1, 2, 2, 0)])
    assert hill.area() == pytest.approx(-4 / 3)


def test_norm_brings_back_font_units_and_em_their_size(font):
    glyph = read_one(font(o=ring))
    scale, *shift = glyph.norm
    corners = (glyph.coords[[1, 2, 3, 4], :2] - shift) / scale
    np.testing.assert_allclose(corners, CLOCKWISE, atol=1e-3)
    assert glyph.em == pytest.approx(1.8) and scale * UPM == pytest.approx(glyph.em)
    # The middle of the advance width and of the line are in the middle of the square.
    np.testing.assert_allclose(scale * np.array([300, 300]) + shift, 0, atol=1e-6)


def test_a_glyph_too_large_for_the_square_is_shrunk_and_only_that_one(font):
    def banner(pen):
        draw(pen, [(-400, 0), (-400, 100), (2600, 100), (2600, 0)])

    def shifted(pen):
        draw(pen, [(-600, 0), (-600, 100), (-500, 100), (-500, 0)])

    glyphs, _ = read_fonts([font(a=banner, b=shifted, o=ring)], "all", 256)
    large, off, normal = glyphs
    assert large.coords[:, 0].min() == -1 and large.coords[:, 0].max() == 1
    assert large.em == pytest.approx(2 / 3)
    assert off.em == normal.em == pytest.approx(1.8)
    assert off.coords[:, 0].min() == -1
    np.testing.assert_allclose((large.coords[1, :2] - large.norm[1:]) / large.norm[0], [-400, 0], atol=1e-2)


def test_cubics_become_quadratics_within_the_tolerance(font):
    def bow(pen):
        pen.moveTo((0, 0))
        pen.curveTo((0, 400), (600, 400), (600, 0))
        pen.closePath()

    glyph = read_one(font("Test.otf", is_cff=True, u=bow))
    assert set(glyph.commands.tolist()) == {NEW, M, Q, Z, END}
    units = (glyph.coords.astype(float) - np.tile(glyph.norm[1:], 2)) / glyph.norm[0]
    t = np.linspace(0, 1, 2001)[:, None]
    bernstein = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    cubic = sum(b * p for b, p in zip(bernstein, np.array([(0, 0), (0, 400), (600, 400), (600, 0)]), strict=True))
    pen = units[1, :2]
    for control, end in units[glyph.commands == Q].reshape(-1, 2, 2):
        quadratic = (1 - t[::100]) ** 2 * pen + 2 * t[::100] * (1 - t[::100]) * control + t[::100] ** 2 * end
        distance = np.linalg.norm(quadratic[:, None] - cubic, axis=-1).min(1)
        assert distance.max() < 0.001 * UPM + 0.2
        pen = end
    np.testing.assert_allclose(pen, (600, 0), atol=1e-2)


def test_implied_points_are_made_explicit_and_components_resolved(font):
    def round_glyph(pen):
        # All points off the curve.
        pen.qCurveTo((0, 0), (0, 400), (400, 400), (400, 0), None)
        pen.closePath()

    def composite(pen):
        pen.addComponent("a", (1, 0, 0, 1, 100, 50))

    glyphs, _ = read_fonts([font(a=round_glyph, b=composite)], "all", 256)
    base, moved = glyphs
    assert base.commands.tolist() == [NEW, M, Q, Q, Q, Q, Z, END]
    shift = (moved.coords - base.coords)[1, :2] / base.norm[0]
    np.testing.assert_allclose(shift, (100, 50), atol=1e-2)
    assert outline_digest(base) == outline_digest(moved)


def test_each_glyph_counts_once_with_its_lowest_code_point(tmp_path):
    font = build(a=ring, b=ring)
    for table in font["cmap"].tables:
        table.cmap |= {0x3B1: "a", 0x20: "b"}
    font.save(tmp_path / "Test.ttf")
    glyphs, _ = read_fonts([tmp_path / "Test.ttf"], "all", 256)
    assert [(g.name, g.codepoint) for g in glyphs] == [("b", 0x20), ("a", 0x61)]
    greek, _ = read_fonts([tmp_path / "Test.ttf"], "U+0370-03FF", 256)
    assert [(g.name, g.codepoint) for g in greek] == [("a", 0x3B1)]


def test_skipped_glyphs_are_counted_and_named(font):
    def long(pen):
        draw(pen, [(i, i * i) for i in range(30)])

    def point(pen):
        draw(pen, [(5, 5)])

    glyphs, skipped = read_fonts([font(a=long, b=None, c=point, o=ring)], "all", 13)
    assert [glyph.name for glyph in glyphs] == ["o"]
    assert skipped.summary() == [
        "1 glyph longer than 13 tokens (Test/a U+0061)",
        "2 glyphs without contours (Test/b U+0062, Test/c U+0063)",
    ]


TORN_CONTOUR = b"\x00\x01" + b"\xff" * 9
# A composite whose only component is glyph 999.
MISSING_COMPONENT = struct.pack(">5h2H2b", -1, 0, 0, 100, 100, 0x0002, 999, 0, 0)


@pytest.mark.parametrize("data", [TORN_CONTOUR, MISSING_COMPONENT], ids=["torn", "missing component"])
def test_a_damaged_glyph_is_skipped_and_named(tmp_path, data):
    font = build(a=ring, b=ring)
    broken = EmptyGlyph()
    broken.data = data
    font["glyf"].glyphs["a"] = broken
    font["maxp"].recalc = lambda font: None
    font.recalcBBoxes = False
    font.save(tmp_path / "Test.ttf")
    glyphs, skipped = read_fonts([tmp_path / "Test.ttf"], "all", 256)
    assert [glyph.name for glyph in glyphs] == ["b"]
    (line,) = skipped.summary()
    assert line.startswith("1 glyph damaged (Test/a U+0061: ")


def test_lone_points_are_no_contours():
    # An anchor stands beside the only contour of this letter.
    (path,) = (path for path in embedded_fonts() if path.stem == "DejaVuSans")
    glyph = read_one(path, "U+0075")
    assert glyph.commands[:2].tolist() == [NEW, M] and glyph.contour_ids.max() == 0


def test_every_face_of_a_collection_is_read(tmp_path):
    collection = TTCollection()
    collection.fonts = [build(a=ring), build(a=ring, b=ring)]
    collection.save(tmp_path / "Test.ttc")
    glyphs, _ = read_fonts(find_fonts([tmp_path]), "all", 256)
    assert {glyph.file for glyph in glyphs} == {"Test"}
    assert [glyph.label for glyph in glyphs] == ["Test#0/a U+0061", "Test#1/a U+0061", "Test#1/b U+0062"]


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ({"familyName": "Lato Black", "typographicFamily": "Lato"}, "Lato"),
        ({"familyName": " Lato "}, "Lato"),
        ({"styleName": "Regular"}, "Test"),  # the file's name
    ],
)
def test_the_family_is_the_typographic_one(tmp_path, names, family):
    build(names=names, o=ring).save(tmp_path / "Test.ttf")
    assert read_one(tmp_path / "Test.ttf").family == family


def test_a_font_without_names_has_its_files(tmp_path):
    font = build(o=ring)
    del font["name"]
    font.save(tmp_path / "Test.ttf")
    assert read_one(tmp_path / "Test.ttf").family == "Test"


@pytest.mark.parametrize("content", [b"", b"no font at all", b"ttcf\x00\x01", b"\x00\x01\x00\x00" + b"\xff" * 40])
def test_a_file_that_is_no_font(font, tmp_path, content):
    bad = tmp_path / "bad.ttf"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ttf cannot be read as a font: \w+.*: .*is one of \.ttf, \.otf, \.ttc"):
        read_fonts([bad], "all", 256)
    glyphs, skipped = read_fonts([bad, font(o=ring)], "all", 256)
    assert len(glyphs) == 1 and len(skipped) == 1
    assert skipped.summary()[0].startswith(f"1 font unreadable ({bad}: ")


def test_a_font_cut_short_is_refused_or_read_in_part(font, tmp_path):
    content = font(o=ring).read_bytes()
    for length in range(0, len(content), 97):
        path = tmp_path / "cut.ttf"
        path.write_bytes(content[:length])
        try:
            read_fonts([path], "all", 256)
        except UserError as error:
            assert "cut.ttf" in str(error)


def test_a_font_without_unicode_map_is_refused(tmp_path):
    font = build(o=ring)
    font["cmap"].tables = []
    font.save(tmp_path / "Test.ttf")
    with pytest.raises(UserError, match="no Unicode character map"):
        read_fonts([tmp_path / "Test.ttf"], "all", 256)


def test_fonts_are_found_in_files_and_folders(tmp_path, monkeypatch):
    for name in ("b.ttf", "sub/a.OTF", "sub/deep/c.ttc", "sub/folder.ttf/readme.txt", "readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    names = lambda *places: [str(p) for p in find_fonts(map(Path, places))]  # noqa: E731
    assert names(".") == ["b.ttf", "sub/a.OTF", "sub/deep/c.ttc"]
    assert names("sub/deep", "b.ttf", "b.ttf") == ["b.ttf", "sub/deep/c.ttc"]
    # Whoever names a file means it.
    assert names("readme.txt") == ["readme.txt"]


def test_a_folder_without_fonts_is_refused_by_name_also_beside_others(font, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "data.npz").touch()
    with pytest.raises(UserError, match=r"config\.data\.path: no font found in '.*/empty': .*\.ttf, \.otf, \.ttc"):
        load_glyphs(f"{font(o=ring)},{tmp_path}/empty", "all", 256)


def test_a_folder_that_cannot_be_opened_is_refused(font, tmp_path, monkeypatch):
    font(o=ring)
    (tmp_path / "locked").mkdir()

    def scandir(path, real=os.scandir):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"the folder .*/locked cannot be read: Permission denied"):
        load_glyphs(str(tmp_path), "all", 256)


def test_fonts_of_one_name_are_told_apart(font, tmp_path):
    for folder in ("serif", "sans"):
        (tmp_path / folder).mkdir()
        font(f"{folder}/Regular.ttf", o=ring)
    font("Bold.ttf", o=ring)
    glyphs, _ = load_glyphs(str(tmp_path), "all", 256)
    assert [glyph.font for glyph in glyphs] == ["Bold", "sans/Regular.ttf", "serif/Regular.ttf"]


def test_a_link_that_leads_nowhere_is_skipped_and_named(font, tmp_path):
    font(o=ring)
    (tmp_path / "lost.ttf").symlink_to(tmp_path / "moved.ttf")
    glyphs, skipped = load_glyphs(str(tmp_path), "all", 256)
    assert len(glyphs) == 1
    (name,) = skipped.names["font unreadable"]
    assert name.startswith(f"{tmp_path}/lost.ttf: FileNotFoundError")


def test_fonts_are_loaded_from_lists_and_from_names_with_commas(font, tmp_path, monkeypatch):
    font("a.ttf", a=ring)
    font("b, c.ttf", b=ring)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [g.font for g in load_glyphs("~/b, c.ttf", "all", 256)[0]] == ["b, c"]
    (tmp_path / "b, c.ttf").rename(tmp_path / "b.ttf")
    assert [g.font for g in load_glyphs("~/a.ttf , ~/b.ttf", "all", 256)[0]] == ["a", "b"]


def test_the_embedded_fonts_are_the_dejavu_text_faces():
    names = [path.stem for path in embedded_fonts()]
    assert len(names) == 12
    assert {name.split("-")[0] for name in names} == {"DejaVuSans", "DejaVuSansMono", "DejaVuSerif"}


@functools.cache
def ascii_glyphs():
    return load_glyphs("", "ascii", 256)[0]


def test_embedded_glyphs_fit_the_square_and_end_well():
    letters = ascii_glyphs()
    assert len(letters) == 12 * 94
    assert all(np.abs(glyph.coords).max() <= 1 for glyph in letters)
    assert all(check_prefix(glyph.commands, np.ones(len(glyph), bool)).ok for glyph in letters)
    by_letter = {(g.font, g.name): (g.commands == HOLE).sum() for g in letters}
    for name, holes in {"A": 1, "B": 2, "C": 0, "eight": 2, "percent": 2, "i": 0}.items():
        assert {by_letter[font, name] for font in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")} == {holes}


def test_nothing_in_the_charset_is_refused():
    with pytest.raises(
        UserError, match=r"no usable glyph in the embedded fonts: 1 character that no font has \(U\+4E00\)"
    ):
        load_glyphs("", "U+4E00", 256)
    with pytest.raises(UserError, match=r"12 glyphs longer than 3 tokens .*raise config\.model\.max_len = 3"):
        load_glyphs("", "U+0041", 3)


@given(st.data())
def test_the_digest_ignores_place_and_scale_and_nothing_else(data):
    letters = ascii_glyphs()
    glyph = letters[data.draw(st.integers(0, len(letters) - 1))]
    # Another face of the square: the same font units under another norm, in the precision of the coordinates.
    scale = data.draw(st.floats(0.5, 1.0))
    shift = data.draw(st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)))
    used = coordinate_mask(glyph.commands)
    moved = np.where(used, glyph.coords * scale + np.tile(shift, 2), 0).astype(np.float32)
    fields = vars(glyph) | {"coords": moved, "em": glyph.em * scale, "name": "other", "codepoint": -1}
    assert outline_digest(type(glyph)(**fields)) == outline_digest(glyph)

    points = np.flatnonzero(np.isin(glyph.commands, (L, Q)))
    coords = glyph.coords.copy()
    coords[data.draw(st.sampled_from(points.tolist())), 0] += 0.004 * glyph.em
    assert outline_digest(type(glyph)(**vars(glyph) | {"coords": coords})) != outline_digest(glyph)


def test_a_font_without_metrics_is_refused(tmp_path):
    font = build(o=ring)
    font.save(tmp_path / "Test.ttf")
    font = TTFont(tmp_path / "Test.ttf")
    del font["hhea"], font["hmtx"]
    font.save(tmp_path / "Bare.ttf")
    with pytest.raises(UserError, match=r"Bare\.ttf cannot be read as a font: KeyError"):
        read_fonts([tmp_path / "Bare.ttf"], "all", 256)
