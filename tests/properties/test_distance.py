"""Signed distance images made on the device, against closed forms, a slow reference and the rasteriser."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae import distance
from jaxvae.data.glyphs import GlyphSource, embedded_fonts, inside_mask, read_fonts
from jaxvae.outlines import END, HOLE, NEW, PAD, L, M, Q, Z

SIZE, LENGTH = 32, 24
# Half a px of this image in normalised units.
HALF = 2 / (SIZE - 1) / 2
CLIP = 6.0

signed_distance = jax.jit(distance.signed_distance, static_argnums=(3, 4))


def outline(*contours, length=LENGTH, close=True):
    """Tokens of polygons, or of curves where a point has four numbers, in normalised units; one example."""
    tokens = []
    for start, *points in contours:
        tokens += [(NEW,), (M, *start), *((Q if len(p) == 4 else L, *p) for p in points)]
        tokens += [(Z,)] if close else []
    tokens.append((END,))
    commands, coords = np.full(length, PAD, np.int32), np.zeros((length, 4), np.float32)
    for slot, (command, *arguments) in enumerate(tokens):
        commands[slot], coords[slot, : len(arguments)] = command, arguments
    return commands, coords, np.arange(length) < len(tokens)


def image(tokens, size=SIZE, clip=CLIP):
    """Signed distances in px."""
    (sdf,) = signed_distance(*(array[None] for array in tokens), size, clip)
    assert sdf.dtype == np.float32
    return np.asarray(sdf) * clip


def rectangle(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def circle(radius, x=0.0, y=0.0, arcs=8):
    angles = np.arange(arcs) * 2 * np.pi / arcs
    on = radius * np.c_[np.cos(angles), np.sin(angles)]
    out = radius * np.tan(np.pi / arcs) * np.c_[-np.sin(angles), np.cos(angles)]
    points = [(*(on[i] + out[i] + (x, y)), *(on[(i + 1) % arcs] + (x, y))) for i in range(arcs)]
    return [tuple(on[0] + (x, y)), *points]


def centres(size=SIZE):
    """Normalised coordinates of the centres of pixels, x as a row and y as a column."""
    at = (np.arange(size) + 0.5) * 2 / (size - 1) - 1
    return at[None], -at[:, None]


def test_a_rectangle():
    x0, y0, x1, y1 = -0.53, -0.31, 0.24, 0.72
    x, y = centres()
    # Beyond each pair of sides; negative between them.
    dx = np.maximum(x0 - x, x - x1) / (2 * HALF)
    dy = np.maximum(y0 - y, y - y1) / (2 * HALF)
    beyond = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)
    want = np.clip(-beyond, -CLIP, CLIP)
    np.testing.assert_allclose(image(outline(rectangle(x0, y0, x1, y1))), want, atol=1e-4)


@pytest.mark.parametrize("close", [True, False])
def test_a_ring(close):
    x, y = centres()
    at = np.hypot(x - 0.1, y + 0.05)
    want = np.minimum(0.8 - at, at - 0.3) / (2 * HALF)
    got = image(outline(circle(0.8, 0.1, -0.05), circle(0.3, 0.1, -0.05), close=close))
    # Eight parabolas leave a circle by 0.3 % of its radius, and chords leave parabolas.
    np.testing.assert_allclose(got, np.clip(want, -CLIP, CLIP), atol=0.003 * 0.8 / (2 * HALF) + distance.FLATNESS_PX)
    # There are pixels of all kinds.
    assert (got > 2).any() and (got == -CLIP).any() and ((want > -CLIP) & (at < 0.3)).any()


def test_the_top_row_is_the_top_and_the_square_ends_before_the_last_row_and_column():
    got = image(outline(rectangle(-1, -1, 1, 1)))
    assert (got[: SIZE - 1, : SIZE - 1] >= 0.5 - 1e-4).all()
    np.testing.assert_allclose(got[-1, 5:-6], -0.5, atol=1e-4)
    np.testing.assert_allclose(got[5:-6, -1], -0.5, atol=1e-4)
    upper = image(outline(rectangle(-0.5, 0.2, 0.5, 0.8)))
    assert (upper[: SIZE // 2] > 0).any() and not (upper[SIZE // 2 :] > 0).any()


def reference(contours, size):
    """Signed distances in px in float64: 64 chords per curve, closed, no clip."""
    half = (size - 1) / 2
    starts, ends = [], []
    for first, *points in contours:
        here = np.array(first)
        for point in [*points, first]:
            a, b = here, np.array(point[-2:])
            t = np.linspace(0, 1, 65)[:, None]
            curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * np.array(point[:2]) + t**2 * b
            line = curve if len(point) == 4 else np.stack([a, b])
            starts, ends, here = [*starts, line[:-1]], [*ends, line[1:]], b
    starts, ends = (half * (np.concatenate(p) * [1, -1] + 1) for p in (starts, ends))
    at = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 1, 2) + 0.5
    # A point alone is no outline.
    drawn = (starts != ends).any(1)
    starts, ends = (np.append(p[drawn], [[1e6, 1e6]], 0) for p in (starts, ends))
    way = ends - starts
    share = (((at - starts) * way).sum(-1) / np.maximum((way**2).sum(-1), 1e-12)).clip(0, 1)
    away = np.linalg.norm(starts + share[..., None] * way - at, axis=-1).min(1)
    x, y = at[..., 0], at[..., 1]
    crosses = (starts[:, 1] <= y) != (ends[:, 1] <= y)
    where = starts[:, 0] + (y - starts[:, 1]) / np.where(way[:, 1] == 0, 1, way[:, 1]) * way[:, 0]
    inside = (crosses & (where > x)).sum(1) % 2 == 1
    return np.where(inside, away, -away).reshape(size, size)


COORDINATE = st.integers(-1200, 1200).map(lambda n: n / 1000)
POINT = st.tuples(COORDINATE, COORDINATE)
CURVE = st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE)
CONTOUR = st.tuples(POINT, st.lists(POINT | CURVE, min_size=1, max_size=4)).map(lambda c: [c[0], *c[1]])


@settings(max_examples=30)
@given(st.lists(CONTOUR, min_size=1, max_size=3))
def test_any_outline_agrees_with_a_slow_reference(contours):
    want = np.clip(reference(contours, SIZE), -CLIP, CLIP)
    got = image(outline(*contours))
    # Bends of up to 105 px, with as many chords as there may be.
    leaves = 105 / (4 * distance.CHORDS**2) + 105 / (4 * 64**2)
    np.testing.assert_allclose(np.abs(got), np.abs(want), atol=leaves)
    # On the other side of the outline only between curve and chord.
    np.testing.assert_allclose(got, want, atol=2 * leaves)


@functools.cache
def glyphs():
    """Letters with curves, holes and accents."""
    return read_fonts(embedded_fonts()[:1], "U+0041-0044,U+0067,U+0069,U+00C4,U+00E5,U+0038", 64)[0]


def padded(glyph, length):
    commands, coords = np.full(length, PAD, np.int32), np.zeros((length, 4), np.float32)
    commands[: len(glyph)], coords[: len(glyph)] = glyph.commands, glyph.coords
    return commands, coords, np.arange(length) < len(glyph)


def test_the_sign_is_the_rasters_away_from_the_edge():
    for glyph in glyphs():
        tokens = padded(glyph, 64)
        got, inside = image(tokens, 64, 4.0), inside_mask(*tokens, 64)
        # Half a diagonal of a pixel.
        sure = np.abs(got) > 0.75
        assert ((got > 0) == inside)[sure].all(), glyph.label
        assert sure.sum() > 3000 and inside.sum() > 100


def test_padding_other_examples_and_the_order_of_contours_change_nothing():
    tokens = outline(circle(0.5), rectangle(-0.3, -0.3, 0.2, 0.1))
    want = image(tokens)
    swapped = outline(rectangle(-0.3, -0.3, 0.2, 0.1), circle(0.5))
    np.testing.assert_allclose(image(swapped), want, atol=1e-5)
    # Far more chords than the first has.
    longest = outline(circle(0.9), circle(0.8, arcs=4), length=40), outline(length=40)
    batch = [outline(circle(0.5), rectangle(-0.3, -0.3, 0.2, 0.1), length=40), *longest]
    got = signed_distance(*map(np.stack, zip(*batch, strict=True)), SIZE, CLIP)
    np.testing.assert_allclose(np.asarray(got[0]) * CLIP, want, atol=1e-5)


def test_what_does_not_belong_is_ignored():
    commands, coords, mask = outline(rectangle(-0.5, -0.5, 0.5, 0.5))
    want = image((commands, coords, mask))
    beyond = ~mask
    others = np.where(beyond, np.resize([M, L, Q, Z], LENGTH), commands).astype(np.int32)
    coords = np.where(beyond[:, None], np.float32(0.9), coords)
    np.testing.assert_array_equal(image((others, coords, mask)), want)
    # And what follows END.
    np.testing.assert_array_equal(image((others, coords, np.ones(LENGTH, bool))), want)


def test_without_lines_and_curves_everything_is_outside():
    assert (image(outline()) == -CLIP).all()
    assert (image(outline([(0.1, 0.2)], [(0.3, 0.3)])) == -CLIP).all()
    assert (image((*outline(rectangle(-1, -1, 1, 1))[:2], np.zeros(LENGTH, bool))) == -CLIP).all()


@pytest.mark.parametrize("end", ["append", "overwrite"])
def test_the_image_of_a_prefix_is_that_of_its_contours(end):
    source = GlyphSource(glyphs(), max_tokens=64, stage_ratios=(0.5, 1.0), stage_probabilities=(0.5, 0.5), end=end)
    several = [i for i, glyph in enumerate(glyphs()) if glyph.contour_ids.max() > 0]
    assert len(several) >= 4
    for index in several:
        example = source.collate([source.load(index, 0)], (64,))
        got = signed_distance(*(example[name] for name in ("commands", "coords", "token_mask")), 64, 4.0)[0]
        glyph = glyphs()[index]
        kept = np.ceil(0.5 * (glyph.contour_ids.max() + 1))
        commands, coords, mask = padded(glyph, 64)
        mask[: len(glyph)] &= glyph.contour_ids < kept
        np.testing.assert_allclose(np.asarray(got) * 4, image((commands, coords, mask), 64, 4.0), atol=1e-5)
        assert np.abs(image(padded(glyph, 64), 64, 4.0) - got * 4).max() > 1


def test_holes_and_new_contours_are_filled_alike():
    """By the even-odd rule only the path counts."""
    commands, coords, mask = outline(rectangle(-0.5, -0.5, 0.5, 0.5), rectangle(-0.2, -0.2, 0.2, 0.2))
    as_hole = np.where(commands == NEW, HOLE, commands)
    np.testing.assert_array_equal(image((as_hole, coords, mask)), image((commands, coords, mask)))
