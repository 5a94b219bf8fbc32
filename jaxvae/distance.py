"""Signed distance images of outlines on the device: the distance to the outline itself, not between pixels.

The images are made inside the jitted step from the tokens that the model reads. So nothing has to be drawn, kept or
sent to the device ahead, and the cost hides in the step; `benchmarks/data_glyphs.py` measures error and cost.

Every chord of a flattened outline is compared with every pixel. Only the chords that there are: curves get as many
as they need, the chords of an outline are packed, and the loop ends with the longest list of the batch.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvae import raster

# Quadratics become chords that leave them by no more than this, px ...
FLATNESS_PX = 0.05
# ... but at most so many: enough for a quarter of a circle of radius 36 px; one of 60 px is left by 0.08 px.
CHORDS = 16
# Chords per turn of the loop: few turns where starting one costs, little waste at the end of the list.
CHUNK = 8
# Where chords lie that are not used, px.
NOWHERE = -1e6


def signed_distance(
    commands: Int[Array, "B L"], coords: Float[Array, "B L 4"], mask: Bool[Array, "B L"], size: int, clip_px: float
) -> Float[Array, "B size size"]:
    """Distance in px from each pixel's centre to the outline, divided by `clip_px`, clipped to [-1, 1], float32.

    Positive inside by the even-odd rule. (x, y) lies at column (x + 1) (size - 1) / 2 and row (1 - y) (size - 1) / 2,
    and the centre of pixel (r, c) at (r + 1/2, c + 1/2), as in `jaxvae.data.glyphs.sdf`; row 0 is the top. What counts
    as a contour is said by `raster.segments`. An outline without lines and curves gives -1 everywhere. Edges on which
    two contours lie exactly count as outline, although the filling has no border there.

    Source: specification of the glyph VAE, section 2.5, with exact distances instead of those between pixels.
    """
    points, joined, count = jax.vmap(functools.partial(_polylines, size=size))(commands, coords, mask)
    turns = -(-count.max() // CHUNK)
    centres = jnp.arange(size) + 0.5
    x, y = centres, centres[:, None]

    def image(points, joined):
        def turn(i, carry):
            # Chords are put together here, behind the loop's door: both neighbours of a point then see the same bits,
            # and no crossing is lost or doubled.
            p = jax.lax.dynamic_slice_in_dim(points, i * CHUNK, CHUNK + 1)
            used = jax.lax.dynamic_slice_in_dim(joined, i * CHUNK, CHUNK)[:, None]
            start, end = jnp.where(used, p[:-1], NOWHERE), jnp.where(used, p[1:], NOWHERE)
            for k in range(CHUNK):
                carry = _add_chord(*carry, start[k], end[k], x, y)
            return carry

        square, side = jnp.full((size, size), jnp.inf), jnp.full((size, size), -1.0)
        square, side = jax.lax.fori_loop(0, turns, turn, (square, side))
        return side * jnp.minimum(jnp.sqrt(square) / clip_px, 1.0)

    return jax.vmap(image)(points, joined)


def _polylines(
    commands: Int[Array, "L"], coords: Float[Array, "L 4"], mask: Bool[Array, "L"], size: int
) -> tuple[Float[Array, "P 2"], Bool[Array, "P"], Int[Array, ""]]:
    """The contours as points in px, which of them are joined to the next point, and how many there are.

    P = CHORDS * (L + 1), rounded up for whole chunks and a point behind the last.
    """
    pixels = (coords * jnp.array([1.0, -1.0, 1.0, -1.0]) + 1) * ((size - 1) / 2)
    start, control, end, last = raster.segments(commands, pixels, mask)
    bend = start - 2 * control + end
    # A chord over the share h of a quadratic leaves it by |bend| h^2 / 4.
    parts = jnp.ceil(jnp.sqrt(jnp.linalg.norm(bend, axis=-1) / (4 * FLATNESS_PX)))
    parts = jnp.clip(parts, 1, CHORDS).astype(int)
    parts = jnp.where(((start != end) | (start != control)).any(-1), parts, 0)

    # The start of every chord, and the end of every contour.
    counts = parts + last
    room = -(-CHORDS * len(counts) // CHUNK) * CHUNK + 1
    of = jnp.repeat(jnp.arange(len(counts)), counts, total_repeat_length=room)
    rank = jnp.arange(room) - (jnp.cumsum(counts) - counts)[of]
    joined = rank < parts[of]
    t = (rank / jnp.maximum(parts[of], 1))[:, None]
    start, slope, bend = start[of], 2 * (control - start)[of], bend[of]
    points = jnp.where(joined[:, None], start + t * (slope + t * bend), end[of])
    return points, joined, counts.sum()


def _add_chord(square, side, start, end, x, y):
    """Squared distances and sides (1 inside, -1 outside) with one chord more; `x` is a row, `y` a column, px."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    scale = 1 / jnp.maximum(dx**2 + dy**2, 1e-12)
    along = jnp.clip((x - x0) * (dx * scale) + (y - y0) * (dy * scale), 0, 1)
    square = jnp.minimum(square, (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2)
    # A half-open rule in y: a vertex on a row of centres counts once.
    crosses = (y0 <= y) != (y1 <= y)
    at = jnp.where(crosses, x0 + (y - y0) * (dx / jnp.where(dy == 0, 1.0, dy)), -jnp.inf)
    return square, jnp.where(at > x, -side, side)
