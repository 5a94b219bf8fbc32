"""The rasteriser on the device against the exact-coverage one on the host, and what it must ignore."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae import raster
from jaxvae.data.glyphs import inside_mask
from jaxvae.outlines import END, HOLE, NEW, PAD, L, M, Q, Z

SIZE = 48


def outline(*tokens, length=None):
    """Arrays from (command, arguments...) rows, padded to `length`."""
    length = length or len(tokens)
    commands, coords = np.full(length, PAD, np.int32), np.zeros((length, 4), np.float32)
    for slot, (command, *args) in enumerate(tokens):
        commands[slot], coords[slot, : len(args)] = command, args
    return jnp.asarray(commands), jnp.asarray(coords), jnp.arange(length) < len(tokens)


def square(r, kind=NEW):
    return [(kind,), (M, -r, -r), (L, r, -r), (L, r, r), (L, -r, r), (Z,)]


def area(*tokens, **kwargs):
    """Share of the square [-1, 1]^2 that is filled."""
    return float(raster.fill(*outline(*tokens, **kwargs), 64).mean())


def test_areas_of_simple_shapes():
    assert area(*square(0.5), (END,)) == pytest.approx(0.25, abs=0.01)
    assert area(*square(0.75), *square(0.25, HOLE), (END,)) == pytest.approx(0.5625 - 0.0625, abs=0.01)
    # Two arches of a parabola: 2/3 of the box of the control points.
    lens = [(NEW,), (M, -1, 0), (Q, 0, 1, 1, 0), (Q, 0, -1, -1, 0), (Z,), (END,)]
    assert area(*lens) == pytest.approx(2 * (2 / 3 * 2 * 1 / 2) / 4, abs=0.01)


def test_the_top_row_is_the_top():
    picture = np.asarray(raster.fill(*outline((NEW,), (M, -1, 0), (L, 1, 0), (L, 0, 1), (Z,), (END,)), 32))
    assert picture[:16].any() and not picture[16:].any()


def test_an_open_contour_is_closed():
    closed = raster.fill(*outline(*square(0.5), *square(0.2, HOLE), (END,)), SIZE)
    no_z = [token for token in (*square(0.5), *square(0.2, HOLE), (END,)) if token != (Z,)]
    np.testing.assert_array_equal(closed, raster.fill(*outline(*no_z), SIZE))
    np.testing.assert_array_equal(closed, raster.fill(*outline(*no_z[:-1]), SIZE))


def test_what_does_not_belong_is_ignored():
    whole = outline(*square(0.5), (END,))
    want = raster.fill(*whole, SIZE)
    behind_end = outline(*square(0.5), (END,), *square(0.9), (END,))
    np.testing.assert_array_equal(want, raster.fill(*behind_end, SIZE))
    before_m = outline((NEW,), (L, 0.9, 0.9), (Q, -0.9, 0.9, 0, 0), *square(0.5)[1:], (END,))
    np.testing.assert_array_equal(want, raster.fill(*before_m, SIZE))
    commands, coords, mask = outline(*square(0.5), (END,), length=20)
    coords = coords.at[7:].set(3.0)
    np.testing.assert_array_equal(want, raster.fill(commands.at[7:].set(L), coords, mask, SIZE))
    assert not raster.fill(*outline((END,)), SIZE).any()


coordinates = st.integers(-95, 95).map(lambda n: n / 100)
points = st.tuples(coordinates, coordinates)
contours = st.lists(
    st.lists(st.one_of(points, st.tuples(points, points)), min_size=3, max_size=6), min_size=1, max_size=3
)


@settings(max_examples=40)
@given(contours)
def test_it_agrees_with_the_exact_rasteriser(shape):
    """Up to pixels on the boundary, of which there are few."""
    tokens = []
    for contour in shape:
        tokens += [(NEW,), (M, 0.0, 0.0)]
        tokens += [(Q, *p[0], *p[1]) if isinstance(p[0], tuple) else (L, *p) for p in contour]
        tokens.append((Z,))
    arrays = outline(*tokens, (END,), length=32)
    got = np.asarray(raster.fill(*arrays, SIZE))
    # The training data's square ends half a pixel earlier at the right and bottom: scaled to the same pixels.
    scaled = [np.asarray(a) for a in arrays]
    scaled[1] = (scaled[1] + np.array([1, -1] * 2, np.float32)) * (SIZE / (SIZE - 1)) - np.array([1, -1] * 2)
    want = inside_mask(*[a.astype(np.float32) if a.dtype.kind == "f" else a for a in scaled], SIZE)
    assert (got != want).mean() < 0.05


def test_iou():
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    np.testing.assert_allclose(raster.iou(jnp.asarray(a), jnp.asarray(b)), [1 / 3, 1.0], rtol=1e-6)
