"""Outlines as pictures on the device: an even-odd rasteriser in pure JAX, for metrics and samples.

It samples pixel centres of the square [-1, 1]^2 and renders a predicted outline inside a jitted evaluation, where a
library on the host cannot go. What models are trained on is made by `jaxvae.distance`, from the segments found here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvae.outlines import END, HOLE, NEW, PAD, L, M, Q, T, Z

# Chords per token. A quadratic that spans half of a 64 px picture is followed to better than 0.1 px.
CHORDS = 8
# An outline that is not longer draws nothing, normalised units. (Chords that are not used are points but for rounding.)
SHORTEST_OUTLINE = 1e-4


def _last_index(condition: Bool[Array, "L"]) -> Int[Array, "L"]:
    """For every slot the last index up to it, inclusive, at which the condition holds; -1 before the first."""
    index = jnp.where(condition, jnp.arange(condition.shape[0]), -1)
    return jax.lax.cummax(index)


class Segments(NamedTuple):
    """The closed contours of an outline as quadratics, S = L + 1; lines have their control in the middle.

    One slot per token and one more, which closes what is still open at the end. Slots that draw nothing have equal
    points.
    """

    start: Float[Array, "S 2"]
    control: Float[Array, "S 2"]
    end: Float[Array, "S 2"]
    last: Bool[Array, "S"]  # ends a contour


def segments(commands: Int[Array, "L"], coords: Float[Array, "L 4"], mask: Bool[Array, "L"]) -> Segments:
    """The segments of an outline, in the units of `coords`.

    Slots outside `mask` are skipped and the first END ends the outline. A contour starts at M and closes at Z or,
    at the latest, at the next M or the end. Lines and curves before the first M are ignored.
    """
    ended = jnp.cumsum((commands == END) & mask) > 0
    drawn = mask & ~ended
    is_move, is_close = drawn & (commands == M), drawn & (commands == Z)
    is_line, is_curve = drawn & (commands == L), drawn & ((commands == Q) | (commands == T))

    # Where the pen stands after each token, and where its contour began.
    origin = _last_index(is_move)
    origin_point = coords[origin, :2]
    target = jnp.where(is_curve[:, None], coords[:, 2:], coords[:, :2])
    target = jnp.where(is_close[:, None], origin_point, target)
    pen = _last_index(is_move | is_line | is_curve | is_close)

    def before(x):
        return jnp.concatenate([jnp.full_like(x[:1], -1), x])

    # One more slot than tokens: the last closes what is still open, as every M closes what came before it.
    pen, origin = before(pen), before(origin)
    start = target[pen]
    closing = jnp.append(is_move, True)
    end = jnp.where(closing[:, None], coords[origin, :2], jnp.append(target, target[-1:], axis=0))
    # Drawing needs an M before it.
    last = closing & (origin >= 0)
    drawing = (jnp.append(is_line | is_curve | is_close, False) & (origin >= 0)) | last
    end = jnp.where(drawing[:, None], end, start)

    curve = jnp.append(is_curve, False)
    middle = 0.5 * (start + end)
    control = jnp.where((curve & drawing)[:, None], jnp.append(coords[:, :2], coords[-1:, :2], axis=0), middle)
    return Segments(start, control, end, last)


def _chords(outline: Segments) -> tuple[Float[Array, "C 2"], Float[Array, "C 2"]]:
    """Start and end points of C = CHORDS * S chords; those that are not used have equal end points."""
    start, control, end, _ = outline
    t = jnp.linspace(0.0, 1.0, CHORDS + 1)[:, None, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    # Exact end points, so that neighbouring chords share them and no crossing is lost or doubled.
    points = points.at[0].set(start).at[-1].set(end)
    # Chord after chord, in the order in which they are drawn.
    return points[:-1].swapaxes(0, 1).reshape(-1, 2), points[1:].swapaxes(0, 1).reshape(-1, 2)


def fill(
    commands: Int[Array, "L"], coords: Float[Array, "L 4"], mask: Bool[Array, "L"], size: int
) -> Bool[Array, "size size"]:
    """Pixels whose centre lies inside by the even-odd rule; row 0 is the top (y = +1)."""
    start, end = _chords(segments(commands, coords, mask))
    centres = (jnp.arange(size) + 0.5) * (2.0 / size) - 1.0
    x, y = centres, -centres
    (x0, y0), (x1, y1) = start.T, end.T
    # A half-open rule in y: a vertex on a scan line counts once.
    crosses = (y0 <= y[:, None]) != (y1 <= y[:, None])
    slope = (x1 - x0) / jnp.where(y1 == y0, 1.0, y1 - y0)
    at = x0 + (y[:, None] - y0) * slope
    crossings = (crosses[:, None, :] & (at[:, None, :] > x[None, :, None])).sum(-1)
    return crossings % 2 == 1


def iou(a: Bool[Array, "*n h w"], b: Bool[Array, "*n h w"]) -> Float[Array, "*n"]:
    """Intersection over union of filled areas; two empty pictures are equal (1)."""
    intersection = (a & b).sum((-2, -1))
    union = (a | b).sum((-2, -1))
    return jnp.where(union > 0, intersection / jnp.maximum(union, 1), 1.0)


def contour_points(
    commands: Int[Array, "L"], coords: Float[Array, "L 4"], mask: Bool[Array, "L"], count: int
) -> Float[Array, "count 2"]:
    """Points at equal distances along all contours of an outline; the origin, for an outline that draws nothing."""
    start, end = _chords(segments(commands, coords, mask))
    lengths = jnp.linalg.norm(end - start, axis=1)
    ends = jnp.cumsum(lengths)
    at = (jnp.arange(count) + 0.5) / count * ends[-1]
    on = jnp.minimum(jnp.searchsorted(ends, at), len(ends) - 1)
    share = (at - (ends[on] - lengths[on])) / jnp.where(lengths[on] > 0, lengths[on], 1.0)
    points = start[on] + jnp.clip(share, 0.0, 1.0)[:, None] * (end - start)[on]
    return jnp.where(ends[-1] > SHORTEST_OUTLINE, points, 0.0)


def chamfer(a: Float[Array, "n 2"], b: Float[Array, "m 2"]) -> Float[Array, ""]:
    """Mean distance to the nearest point of the other set, averaged over both directions (Fan et al. 2017, not
    squared)."""
    distance = jnp.linalg.norm(a[:, None] - b, axis=-1)
    return 0.5 * (distance.min(1).mean() + distance.min(0).mean())


def closes(commands: Int[Array, "L"], mask: Bool[Array, "L"]) -> Bool[Array, ""]:
    """Whether an outline can be taken as it is: contours of M, lines or curves, Z, and END at last.

    `NEW` or `HOLE` may stand before an M and nowhere else.
    """
    # What the pen is doing before each token: 0 between contours, 1 after a NEW or HOLE, 2 in a contour.
    command = jnp.where(mask, commands, PAD)
    ended = jnp.cumsum(command == END) - (command == END) > 0
    live = mask & ~ended
    introduces, moves = live & ((command == NEW) | (command == HOLE)), live & (command == M)
    draws, shuts = live & ((command == L) | (command == Q) | (command == T)), live & (command == Z)
    doing = jnp.select([introduces, moves | draws, shuts], [1, 2, 0], -1)
    last = _last_index(doing >= 0)
    before = jnp.concatenate([jnp.full_like(last[:1], -1), last[:-1]])
    state = jnp.where(before >= 0, doing[before], 0)
    end = live & (command == END)
    in_order = jnp.where(draws | shuts, state == 2, jnp.where(moves, state != 2, state == 0))
    return (in_order | ~live | (command == PAD)).all() & end.any() & shuts.any()
