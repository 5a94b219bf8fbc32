"""Overlapping contours: even-odd fills afterwards what the nonzero rule filled before."""

import functools

import numpy as np
import pytest
from glyph_fonts import build, draw
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae.data.glyphs import embedded_fonts, overlaps, read_fonts
from jaxvae.data.glyphs.charsets import parse_charset
from jaxvae.data.glyphs.faces import Face
from jaxvae.data.glyphs.overlaps import UnresolvedOverlap, resolve_overlaps
from jaxvae.data.glyphs.tokens import Contour, tokens_from_contours
from jaxvae.outlines import HOLE, NEW, L, M, Q

UPM = 600
CHORDS = 16
# Grid for a font of 2048 units per em.
LETTERS = (-500, 2000, 100)


def polygon(*points):
    return Contour([M, *[L] * (len(points) - 1)], [(x, y, 0, 0) for x, y in points])


def rectangle(left, bottom, right, top):
    """Clockwise."""
    return polygon((left, bottom), (left, top), (right, top), (right, bottom))


def chords(contour):
    """Starts and ends [n, 2], the closing one included."""
    points, t = [], np.linspace(0, 1, CHORDS + 1)[1:, None]
    for command, (a, b, c, d) in zip(contour.commands, contour.coords, strict=True):
        if command == Q:
            start = np.array(points[-1])
            points.extend((1 - t) ** 2 * start + 2 * t * (1 - t) * np.array([a, b]) + t**2 * np.array([c, d]))
        else:
            points.append((a, b))
    points = np.array(points, float)
    return points, np.roll(points, -1, axis=0)


def winding(contours, low=0, high=UPM, steps=61):
    """How often the contours wind around each point of a grid that no whole number is on, int [steps, steps]."""
    # Other shares for x and y: no point is on a diagonal of whole numbers.
    x, y = (low + (np.arange(steps) + share) * (high - low) / steps for share in (1 / np.pi, np.sqrt(0.5)))
    start, end = (np.concatenate(side) for side in zip(*map(chords, contours), strict=True))
    (x0, y0), (x1, y1) = start.T, end.T
    y = y[:, None]
    direction = (y0 <= y).astype(int) - (y1 <= y)
    at = x0 + (y - y0) * (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
    return (direction[:, None] * (at[:, None] > x[:, None])).sum(-1)


def even_odd(contours, *args):
    return winding(contours, *args) % 2 == 1


def nonzero(contours, *args):
    return winding(contours, *args) != 0


def commands(contours):
    return tokens_from_contours(contours)[0].tolist()


POINTS = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda p: (50 * p[0], 50 * p[1]))


@settings(max_examples=150)
@given(st.lists(st.lists(POINTS, min_size=3, max_size=6, unique=True), min_size=1, max_size=4))
def test_polygons_are_filled_as_before(outline):
    contours = [polygon(*points) for points in outline]
    try:
        resolved = resolve_overlaps(contours, UPM)
    except UnresolvedOverlap:
        return  # then no picture is better than a wrong one; what may not fail is tested below
    if resolved:
        np.testing.assert_array_equal(even_odd(resolved), nonzero(contours))
    else:
        assert not nonzero(contours).any()


def test_what_does_not_overlap_keeps_the_designers_points():
    ring = [rectangle(0, 0, 400, 400), polygon((100, 100), (300, 100), (300, 300), (100, 300))]
    for contours in (ring, ring[::-1], [rectangle(0, 0, 100, 100), rectangle(100, 0, 200, 100)], ring[:1]):
        assert resolve_overlaps(contours, UPM) is contours
        mirrored = [polygon(*[(-x, y) for x, y, _, _ in c.coords]) for c in contours]
        assert resolve_overlaps(mirrored, UPM) is mirrored


def test_a_cross_of_two_bars_becomes_one_contour():
    contours = [rectangle(0, 200, 600, 300), rectangle(200, 0, 300, 600)]
    assert (even_odd(contours) != nonzero(contours)).any()
    (cross,) = resolved = resolve_overlaps(contours, UPM)
    np.testing.assert_array_equal(even_odd(resolved), nonzero(contours))
    assert len(cross.commands) == 12 and cross.coords[0] == (0, 200, 0, 0)
    assert cross.area() < 0  # still clockwise


def test_a_contour_inside_another_of_its_direction_is_no_hole():
    contours = [rectangle(0, 0, 400, 400), rectangle(100, 100, 300, 300)]
    (square,) = resolve_overlaps(contours, UPM)
    assert abs(square.area()) == 400**2


def test_parts_that_turn_against_each_other_are_both_filled():
    apart = [rectangle(0, 0, 400, 400), polygon((500, 0), (600, 0), (600, 100), (500, 100))]
    assert commands(apart).count(HOLE) == 1
    resolved = resolve_overlaps(apart, UPM)
    assert commands(resolved).count(NEW) == 2
    np.testing.assert_array_equal(even_odd(resolved), nonzero(apart))


def test_contours_stay_in_their_order():
    right, top = rectangle(500, 0, 600, 100), rectangle(0, 500, 100, 600)
    cross = [rectangle(100, 250, 400, 300), rectangle(200, 200, 250, 400)]
    for contours in (
        [right, *cross, top],
        [top, *cross, right],
        [*cross, right, top],
        [cross[0], top, cross[1], right],
    ):
        starts = [contour.coords[0] for contour in resolve_overlaps(contours, UPM)]
        kept = [contour.coords[0] for contour in contours if contour is not cross[1]]
        assert starts == kept


def test_curves_are_filled_as_before():
    def disc(x, y, r):
        k = [
            (x - r, y),
            (x - r, y + r),
            (x, y + r),
            (x + r, y + r),
            (x + r, y),
            (x + r, y - r),
            (x, y - r),
            (x - r, y - r),
        ]
        coords = [(*k[i], *k[(i + 1) % 8]) for i in (1, 3, 5, 7)]
        return Contour([M, Q, Q, Q, Q], [(*k[0], 0, 0), *coords])

    contours = [disc(200, 300, 150), disc(350, 300, 150), disc(270, 200, 90)]
    resolved = resolve_overlaps(contours, UPM)
    assert len(resolved) == 1
    np.testing.assert_array_equal(even_odd(resolved), nonzero(contours))


def test_real_letters_are_filled_as_before():
    (path,) = (path for path in embedded_fonts() if path.stem == "DejaVuSansMono-Bold")
    face = Face(path.read_bytes(), 0, path.stem, path.stem)
    found = set()
    for name, _ in face.mapped(parse_charset("U+00C0-00C9,U+0168-0173")):
        contours, _ = face.draw(name, 0.001)
        filled = nonzero(contours, *LETTERS)
        if (even_odd(contours, *LETTERS) != filled).any():
            found.add(name)
        resolved = resolve_overlaps(contours, face.units_per_em)
        # A point may be so close to the edge that it matters where a curve was cut.
        assert (even_odd(resolved, *LETTERS) != filled).sum() <= 1, name
    assert found >= {"Ccedilla", "Uring"}


def test_a_union_that_lost_a_piece_is_not_used(monkeypatch):
    def lose(outline, rule, simplified=overlaps._simplified):
        """As skia-pathops does now and then: it returns, and a piece is gone."""
        path = simplified(outline, rule)
        small = overlaps._contours(path)[0]
        return overlaps._path([Contour(small.commands[:-1], small.coords[:-1])])

    cross = [rectangle(0, 200, 600, 300), rectangle(200, 0, 300, 600)]
    monkeypatch.setattr(overlaps, "_simplified", lose)
    with pytest.raises(UnresolvedOverlap):
        resolve_overlaps(cross, UPM)


def test_an_outline_that_cannot_be_resolved_is_left_out_by_name(tmp_path, monkeypatch):
    def cross(pen):
        draw(pen, [(0, 200), (0, 300), (600, 300), (600, 200)], [(200, 0), (200, 600), (300, 600), (300, 0)])

    build(x=cross).save(tmp_path / "Test.ttf")
    read = functools.partial(read_fonts, [tmp_path / "Test.ttf"], "all", 256)
    (kept,), _ = read(overlaps="keep")
    assert len(kept) == 13
    (resolved,), _ = read()
    assert len(resolved) == 15
    monkeypatch.setattr(overlaps, "_simplified", lambda *_: None)
    glyphs, skipped = read()
    assert not glyphs
    assert skipped.summary() == ["1 glyph with overlaps that cannot be resolved (Test/x U+0078)"]
