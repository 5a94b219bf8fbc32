"""Filling outlines and their signed distance images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path

from jaxvae.data.glyphs import embedded_fonts, inside_mask, read_fonts, signed_distance, stage_sdf
from jaxvae.outlines import END, HOLE, NEW, L, M, Q, Z

SIZE = 32


def outline(*contours, close=True):
    """Tokens of polygons, or of curves where a point has four numbers, in normalised units."""
    commands, coords = [], []
    for start, *points in contours:
        commands += [NEW, M, *(Q if len(p) == 4 else L for p in points), *([Z] if close else [])]
        coords += [(0, 0), start, *points, *([(0, 0)] if close else [])]
    padded = np.array([(*p, 0, 0)[:4] for p in coords] + [(0,) * 4], np.float32)
    return np.array([*commands, END], np.int32), padded, np.ones(len(padded), bool)


def rectangle(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def overlap(low, high, size):
    """How much of each pixel [i, i + 1) lies in [low, high]."""
    i = np.arange(size)
    return np.clip(np.minimum(high, i + 1) - np.maximum(low, i), 0, 1)


def rectangle_coverage(x0, y0, x1, y1, size):
    left, right, top, bottom = (np.array([x0, x1, -y1, -y0]) + 1) * (size - 1) / 2
    return np.outer(overlap(top, bottom, size), overlap(left, right, size))


def test_the_square_ends_before_the_last_row_and_column():
    inside = inside_mask(*outline(rectangle(-1, -1, 1, 1)), 8)
    assert inside[:7, :7].all() and not inside[7].any() and not inside[:, 7].any()


# Beyond the image on every side too.
SIDES = st.tuples(st.floats(-1.4, 1.4), st.floats(-1.4, 1.4)).map(sorted).filter(lambda s: s[0] < s[1])


@given(SIDES, SIDES, SIDES, SIDES)
def test_coverage_is_exact_and_even_odd(x, y, x2, y2):
    a, b = (x[0], y[0], x[1], y[1]), (x2[0], y2[0], x2[1], y2[1])
    of_a, of_b = (rectangle_coverage(*np.float32(r), SIZE) for r in (a, b))
    inside = inside_mask(*outline(rectangle(*a), rectangle(*b)), SIZE)
    # Where one of them covers all or nothing, the area in exactly one of them is known.
    known = (of_a % 1 == 0) | (of_b % 1 == 0)
    coverage = of_a + of_b - 2 * of_a * of_b
    # At one half rounding decides.
    sure = known & (np.abs(coverage - 0.5) > 1e-5)
    assert (inside == (coverage > 0.5))[sure].all()


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=7))
def test_filling_agrees_with_points_in_polygons_away_from_the_edge(points):
    inside = inside_mask(*outline(points), SIZE)
    pixels = (np.float32(points) * [1, -1] + 1) * (SIZE - 1) / 2
    centres = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).reshape(-1, 2) + 0.5
    starts, ends = pixels, np.roll(pixels, -1, 0)
    direction = ends - starts
    length = np.maximum((direction**2).sum(-1), 1e-12)
    along = (((centres[:, None] - starts) * direction).sum(-1) / length).clip(0, 1)
    distance = np.linalg.norm(starts + along[..., None] * direction - centres[:, None], axis=-1).min(1)
    # The winding number by crossings to the right of each centre, taken even-odd.
    y0, y1 = starts[:, 1], ends[:, 1]
    crosses = (y0 <= centres[:, None, 1]) != (y1 <= centres[:, None, 1])
    at = starts[:, 0] + (centres[:, None, 1] - y0) / np.where(y1 == y0, 1, y1 - y0) * direction[:, 0]
    odd = (crosses & (at > centres[:, None, 0])).sum(1) % 2 == 1
    # Half a diagonal away from the edge a pixel is wholly on one side.
    sure = distance > 0.75
    assert (inside.reshape(-1) == odd)[sure].all()


def test_curves_are_followed():
    arc = np.tan(np.pi / 8)
    angles = np.arange(8) * np.pi / 4
    on = 0.8 * np.c_[np.cos(angles), np.sin(angles)]
    tangents = np.c_[-np.sin(angles), np.cos(angles)] * 0.8 * arc
    circle = [tuple(on[0])] + [(*(on[i] + tangents[i]), *on[(i + 1) % 8]) for i in range(8)]
    size = 128
    area = inside_mask(*outline(circle), size).mean() * size**2
    assert area == pytest.approx(np.pi * (0.8 * (size - 1) / 2) ** 2, rel=2e-3)


def test_a_real_glyph_agrees_with_matplotlib():
    (glyph,), _ = read_fonts(embedded_fonts()[:1], "U+0042", 256)
    codes = {M: [Path.MOVETO], L: [Path.LINETO], Q: [Path.CURVE3, Path.CURVE3], Z: [Path.CLOSEPOLY]}
    points, kinds = [], []
    for command, (a, b, c, d) in zip(glyph.commands, glyph.coords, strict=True):
        kinds += codes.get(int(command), [])
        points += {M: [(a, b)], L: [(a, b)], Q: [(a, b), (c, d)], Z: [(0, 0)]}.get(int(command), [])
    size = 64
    centres = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) + 0.5) * 2 / (size - 1) - 1
    contours = [Path(polygon) for polygon in Path(points, kinds).to_polygons(closed_only=True)]
    covers = [contour.contains_points(centres.reshape(-1, 2) * [1, -1]) for contour in contours]
    expected = np.logical_xor.reduce(covers).reshape(size, size)
    inside = inside_mask(glyph.commands, glyph.coords, np.ones(len(glyph), bool), size)
    assert expected.sum() > 300 and (inside != expected).mean() < 0.02


def test_a_contour_without_z_is_filled_as_if_closed():
    square = rectangle(-0.5, -0.5, 0.5, 0.5), rectangle(-0.2, -0.2, 0.2, 0.2)
    open_ones = inside_mask(*outline(*square, close=False), SIZE)
    assert (open_ones == inside_mask(*outline(*square), SIZE)).all() and not open_ones[SIZE // 2, SIZE // 2]


def test_masked_tokens_are_not_drawn():
    commands, coords, token_mask = outline(rectangle(-0.9, -0.9, -0.1, -0.1), rectangle(0.1, 0.1, 0.9, 0.9))
    token_mask[len(token_mask) // 2 :] = False
    inside = inside_mask(commands, coords, token_mask, SIZE)
    assert inside[-SIZE // 2 :, : SIZE // 2].any() and not inside[: SIZE // 2].any()


@given(
    st.lists(st.tuples(st.floats(-1.2, 1.2), st.floats(-1.2, 1.2)), min_size=3, max_size=6),
    st.floats(0.5, 12),
)
def test_the_sign_tells_the_side_and_the_size_the_distance(points, clip):
    tokens = outline(points)
    inside, sdf = inside_mask(*tokens, SIZE), stage_sdf(*tokens, SIZE, clip)
    assert sdf.dtype == np.float32 and (np.abs(sdf) <= 1).all()
    assert ((sdf > 0) == inside).all() and (sdf != 0).all()
    if inside.all() or not inside.any():
        assert (np.abs(sdf) == 1).all()
        return
    at = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), -1)
    for side in (True, False):
        others = at[inside != side]
        distance = np.linalg.norm(at[inside == side][:, None] - others[None], axis=-1).min(1)
        np.testing.assert_allclose(np.abs(sdf[inside == side]), np.minimum(distance / clip, 1), rtol=1e-6)


def test_images_without_an_edge_are_constant():
    assert (signed_distance(np.zeros((5, 7), bool), 8.0) == -1).all()
    assert (signed_distance(np.ones((5, 7), bool), 8.0) == 1).all()
    nothing = np.array([NEW, HOLE, END]), np.zeros((3, 4), np.float32), np.ones(3, bool)
    assert (stage_sdf(*nothing, 16, 8.0) == -1).all()
