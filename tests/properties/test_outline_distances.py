"""Points along outlines, the Chamfer distance between them, and whether an outline can be taken as it is."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import raster
from jaxvae.outlines import END, HOLE, NEW, PAD, L, M, Q, T, Z


def outline(*tokens, room=0):
    """Arrays from (command, arguments...) rows, and `room` slots of padding."""
    commands = np.full(len(tokens) + room, PAD, np.int32)
    coords = np.zeros((len(commands), 4), np.float32)
    for slot, (command, *args) in enumerate(tokens):
        commands[slot], coords[slot, : len(args)] = command, args
    return jnp.asarray(commands), jnp.asarray(coords), jnp.arange(len(commands)) < len(tokens)


def square(r, x=0.0):
    return [(NEW,), (M, x - r, -r), (L, x + r, -r), (L, x + r, r), (L, x - r, r), (Z,)]


def along(*tokens, count=400, **kwargs):
    return raster.contour_points(*outline(*tokens, **kwargs), count)


def test_points_lie_on_the_outline_at_equal_distances():
    points = np.asarray(along(*square(0.5), (END,)))
    np.testing.assert_allclose(np.abs(points).max(1), 0.5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1).max(), 4 / 400, rtol=1e-3)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-5)
    # Each contour by its length: a square of half the side has a third of the points of both.
    two = np.asarray(along(*square(0.5, -0.5), *square(0.25, 0.5), (END,)))
    assert (two[:, 0] > 0).mean() == pytest.approx(1 / 3, abs=0.01)


def test_points_of_a_curve():
    # A parabola from (-1, 0) to (1, 0) with its top at 1/2, and its chord: no point lies between.
    points = np.asarray(along((NEW,), (M, -1, 0), (Q, 0, 1, 1, 0), (Z,), (END,)))
    on_curve = points[points[:, 1] > 1e-6]
    np.testing.assert_allclose(on_curve[:, 1], (1 - on_curve[:, 0] ** 2) / 2, atol=0.01)


def test_padding_and_what_follows_the_end_do_not_count():
    want = along(*square(0.5), (END,))
    np.testing.assert_array_equal(along(*square(0.5), (END,), room=9), want)
    np.testing.assert_array_equal(along(*square(0.5), (END,), *square(0.1)), want)


def test_an_outline_that_draws_nothing_is_a_point():
    np.testing.assert_array_equal(along((END,)), np.zeros((400, 2)))
    np.testing.assert_array_equal(along((NEW,), (M, 0.3, 0.3), (Z,), (END,)), np.zeros((400, 2)))
    # Lines without an M are not drawn, whatever their arguments.
    np.testing.assert_array_equal(along((L, 0.3, 0.7), (Q, 0.1, 0.7, 0.3, 0.1), (Z,), (END,)), np.zeros((400, 2)))


def test_the_chamfer_distance():
    a = along(*square(0.5), (END,))
    assert float(raster.chamfer(a, a)) == pytest.approx(0, abs=1e-6)
    # Each side of the outer square is 0.1 from the inner one, but for its corners.
    b = along(*square(0.6), (END,))
    assert float(raster.chamfer(a, b)) == pytest.approx(0.1, abs=0.004)
    assert float(raster.chamfer(b, a)) == pytest.approx(float(raster.chamfer(a, b)))
    both = [float(raster.chamfer(x, y)) for x, y in ((a[:200], a), (a, a[:200]))]
    assert both[0] == pytest.approx(both[1]) and both[0] > 0.05, "half an outline is not the whole"


@pytest.mark.parametrize(
    ("commands", "sound"),
    [
        ([NEW, M, L, Q, Z, END], True),
        ([M, L, L, Z, HOLE, M, L, L, Z, END], True),
        ([NEW, M, L, PAD, L, Z, END], True),
        ([NEW, M, T, L, Z, END], True),
        ([NEW, M, L, L, Z, END, L, M], True),  # what follows END does not count
        ([NEW, M, L, L, Z], False),  # no END
        ([END], False),  # nothing
        ([NEW, M, L, L, END], False),  # not closed
        ([NEW, M, L, L, NEW, M, L, Z, END], False),
        ([NEW, L, L, Z, END], False),  # no M
        ([NEW, M, L, Z, L, Z, END], False),
        ([NEW, NEW, M, L, Z, END], False),
        ([NEW, M, L, M, L, Z, END], False),
        ([NEW, M, L, Z, Z, END], False),
        ([NEW, M, L, L, Z, NEW, END], False),
    ],
)
def test_which_outlines_close(commands, sound):
    commands = jnp.asarray([*commands, PAD, PAD], jnp.int32)
    assert bool(raster.closes(commands, jnp.arange(len(commands)) < len(commands) - 2)) is sound
