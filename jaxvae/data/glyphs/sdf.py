"""Signed distance images as the original makes them: an outline is drawn, and distances are between pixels.

`jaxvae.distance` measures the distance to the outline itself, on the device; these are for parity with the original.

An outline is filled by the even-odd rule with exact area coverage, as Levien's font-rs accumulates it: every
piece of the boundary adds the signed area to its right to its pixel, and a running sum along the row gives
the coverage, counted as often as the outline winds around it. Folded to 0..1 this is what FreeType's smooth
rasteriser computes. Source of the conventions: specification of the glyph VAE, section 2.5.

Points are complex numbers here, x + iy.
"""

import math
from typing import NamedTuple

import edt
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from jaxvae.outlines import NUM_COMMANDS, L, M, Q, Z

# Quadratics become chords that leave them by no more than this, px.
FLATNESS_PX = 0.05

_IS_DRAWN = np.zeros(NUM_COMMANDS, bool)
_IS_DRAWN[[M, L, Q, Z]] = True


class Raster(NamedTuple):
    """What images `stage_sdf` makes."""

    size: int  # side, px
    clip_px: float  # distance at which they saturate


def stage_sdf(
    commands: Int[np.ndarray, " L"],
    coords: Float[np.ndarray, "L 4"],
    token_mask: Bool[np.ndarray, " L"],
    size: int,
    clip_px: float,
) -> Float[np.ndarray, "size size"]:
    """Signed distance image of the valid tokens: `inside_mask`, then `signed_distance`."""
    return signed_distance(inside_mask(commands, coords, token_mask, size), clip_px)


def signed_distance(inside: Bool[np.ndarray, "h w"], clip_px: float) -> Float[np.ndarray, "h w"]:
    """Distance in px from each pixel's centre to the nearest centre of the other kind, divided by `clip_px`.

    Positive inside, clipped to [-1, 1], float32; so the pixels along the edge hold +-1 / clip_px. An image
    without any inside is -1 everywhere, one without any outside +1.
    Source: specification of the glyph VAE, section 2.5.
    """
    sdf = np.full(inside.shape, -1, np.float32)
    if inside.all():
        return -sdf
    if inside.any():
        # Farther than the clip from everything inside nothing remains to be measured.
        near = _bounding_box(inside, margin=math.ceil(clip_px))
        window = inside[near]
        # Two labels: one transform gives each kind its distance to the other.
        distance = edt.edt(window.astype(np.uint8) + np.uint8(1))
        sdf[near] = np.clip(np.where(window, distance, -distance) / np.float32(clip_px), -1, 1)
    return sdf


def _bounding_box(inside: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold a True, and `margin` more on every side."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return tuple(slice(max(i[0] - margin, 0), i[-1] + margin + 1) for i in (rows, columns))


def inside_mask(
    commands: Int[np.ndarray, " L"],
    coords: Float[np.ndarray, "L 4"],
    token_mask: Bool[np.ndarray, " L"],
    size: int,
) -> Bool[np.ndarray, "size size"]:
    """Pixels of which the outline of the valid tokens covers more than half; row 0 is the top.

    (x, y) lies at column (x + 1) (size - 1) / 2 and row (1 - y) (size - 1) / 2, where pixel (r, c) covers
    [c, c + 1) x [r, r + 1): +1 is the left edge of the last column, and not its right one. Contours that are
    not closed are filled as if they were. Source: specification of the glyph VAE, section 2.5.
    """
    half = (size - 1) / 2
    segments = _segments(commands[token_mask], coords[token_mask])
    winding_area = _winding_area(*_flatten(*(half * (p.conj() + (1 + 1j)) for p in segments)), size)
    # Even-odd: coverage is the distance to the nearest even number, and above one half where the nearest
    # number is odd.
    return (np.rint(winding_area).astype(np.int32) & 1).astype(bool)


def _segments(
    commands: np.ndarray, coords: np.ndarray
) -> tuple[Complex[np.ndarray, " n"], Complex[np.ndarray, " n"], Complex[np.ndarray, " n"]]:
    """Start, control and end points of all segments, closing lines included; lines have a middle control.

    The pen starts at the origin, where a path without M begins in the original.
    """
    drawn = _IS_DRAWN[commands]
    points = np.ascontiguousarray(coords[drawn], np.float64).view(np.complex128)
    # An M at the origin in front, one more behind: every M closes what came before it.
    commands = np.concatenate([[M], commands[drawn], [M]])
    is_move, is_curve, is_close = commands == M, commands == Q, commands == Z
    pen, control = np.zeros((2, len(commands)), np.complex128)
    control[1:-1] = points[:, 0]
    pen[1:-1] = np.where(is_curve[1:-1], points[:, 1], points[:, 0])
    origin = pen[is_move][np.cumsum(is_move) - 1]
    pen[is_close] = origin[is_close]

    start = pen[:-1]
    end = np.where(is_move[1:], origin[:-1], pen[1:])
    return start, np.where(is_curve[1:], control[1:], (start + end) / 2), end


def _flatten(
    start: np.ndarray, control: np.ndarray, end: np.ndarray
) -> tuple[Complex[np.ndarray, " m"], Complex[np.ndarray, " m"]]:
    """Starts and ends of the chords of quadratics in px."""
    bend = start - 2 * control + end
    # A chord over the share h of a quadratic leaves it by |bend| h^2 / 4.
    parts = np.ceil(np.sqrt(np.abs(bend) / (4 * FLATNESS_PX))).astype(int)
    parts = np.maximum(parts, 1)
    of, k = _repeat(parts)
    start, slope, bend, parts = start[of], 2 * (control - start)[of], bend[of], parts[of]

    def at(t):
        return start + t * (slope + t * bend)

    return at(k / parts), at((k + 1) / parts)


def _repeat(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts (2, 0, 3): owners (0, 0, 2, 2, 2) and ranks (0, 1, 0, 1, 2)."""
    of = np.repeat(np.arange(len(counts)), counts)
    return of, np.arange(len(of)) - (np.cumsum(counts) - counts)[of]


def _crossings(start: np.ndarray, end: np.ndarray, size: int) -> np.ndarray:
    """Where chords cross the lines 0..size of one axis: 2 x the chord's index + the share of its length."""
    first = np.maximum(np.ceil(np.minimum(start, end)), 0)
    last = np.minimum(np.floor(np.maximum(start, end)), size)
    # A chord along the line has no crossing to be found.
    counts = np.where(start == end, 0, np.maximum(last - first + 1, 0)).astype(int)
    of, k = _repeat(counts)
    return 2 * of + (first[of] + k - start[of]) / (end - start)[of]


def _winding_area(start: np.ndarray, end: np.ndarray, size: int) -> Float[np.ndarray, "size size"]:
    """Area of every pixel inside closed polygons in px, times how often they wind around it, signed."""
    # Cut at every line of the grid, so that a piece lies in one pixel. One sort brings the cuts in order.
    chord = 2.0 * np.arange(len(start))
    columns = _crossings(start.real, end.real, size)
    rows = _crossings(start.imag, end.imag, size)
    cuts = np.concatenate([columns, rows, chord, chord + 1])
    cuts.sort()
    of = (cuts / 2).astype(int)
    points = start[of] + (cuts - 2 * of) * (end - start)[of]
    same = of[1:] == of[:-1]
    a, b = points[:-1][same], points[1:][same]

    middle = (a + b) / 2
    row = np.floor(middle.imag).astype(int)
    seen = (row >= 0) & (row < size)
    row, x, height = row[seen], middle.real[seen], (b - a).imag[seen]
    # Left of the image a piece still turns the whole row, right of it only the spare column.
    column = np.clip(np.floor(x), 0, size - 1).astype(int)
    right = height * np.clip(column + 1 - x, 0, 1)
    width = size + 1
    cell = row * width + column
    change = np.bincount(
        np.concatenate([cell, cell + 1]), np.concatenate([right, height - right]), minlength=size * width
    )
    # Polygons are closed, so each row's changes sum to 0 and one running sum serves all rows.
    return np.cumsum(change, out=change).reshape(size, width)[:, :size]
