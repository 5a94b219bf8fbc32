"""Outlines as pictures: grids of cells, and lines of text set with advances."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxvae import raster
from jaxvae.use.frames import UNITS_PER_EM, Frame

# Side of a cell of a grid, px, and pixels per em of a line of text. Both are drawn at `OVERSAMPLING` times that.
CELL_PX = 96
TEXT_PX_PER_EM = 64
OVERSAMPLING = 2
# Outlines are drawn with a multiple of so many slots.
SLOTS_STEP = 32
# A line of text is broken before it becomes wider.
LINE_PX = 1_600
MARGIN_PX = 8
# Advance of a blank, em.
BLANK_EM = 0.3


class Outline(NamedTuple):
    """A predicted outline, or one of the data, and its frame."""

    commands: Int[np.ndarray, " L"]
    coords: Float[np.ndarray, "L 4"]  # normalised units
    mask: Bool[np.ndarray, " L"]
    frame: Frame


_fill = jax.jit(raster.fill, static_argnames="size")


def ink(outline: Outline, size: int) -> Float[np.ndarray, "size size"]:
    """Share of every pixel of the square [-1, 1]^2 that is covered."""
    used = int(outline.mask.nonzero()[0].max(initial=-1)) + 1
    # Few different numbers of slots, as each is a compilation.
    slots = -(-max(used, 1) // SLOTS_STEP) * SLOTS_STEP
    arrays = (_resize(array, slots) for array in (outline.commands, outline.coords, outline.mask))
    filled = np.asarray(_fill(*arrays, size=OVERSAMPLING * size), np.float32)
    return filled.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean((1, 3))


def _resize(array: np.ndarray, slots: int) -> jax.Array:
    """The first slots, zeros behind the last."""
    array = array[:slots]
    return jnp.pad(array, [(0, slots - len(array)), *[(0, 0)] * (array.ndim - 1)])


def grid(rows: Sequence[Sequence[Outline]]) -> Float[np.ndarray, "height width"]:
    """A cell per outline, black on white."""
    columns = max(map(len, rows))
    picture = np.ones((len(rows) * CELL_PX, columns * CELL_PX), np.float32)
    for i, row in enumerate(rows):
        for j, outline in enumerate(row):
            picture[i * CELL_PX :, j * CELL_PX :][:CELL_PX, :CELL_PX] -= ink(outline, CELL_PX)
    return picture


def text(rows: Sequence[Sequence[Outline | None]]) -> Float[np.ndarray, "height width"]:
    """Lines of text, black on white: `rows` are versions of the same text, one below the other; None is a blank.

    A long text is broken, and all versions of a part stand together. The first version decides where.
    """
    parts = _break([_advance(outline) for outline in rows[0]])
    lines = [_line(row[part]) for part in parts for row in rows]
    width = max(line.shape[1] for line in lines)
    return np.concatenate([np.pad(line, ((0, 0), (0, width - line.shape[1])), constant_values=1) for line in lines])


def _advance(outline: Outline | None) -> float:
    """Advance, px."""
    units = BLANK_EM * UNITS_PER_EM if outline is None else outline.frame.advance
    return units * TEXT_PX_PER_EM / UNITS_PER_EM


def _break(advances: Sequence[float]) -> list[slice]:
    starts, width = [0], 0.0
    for i, advance in enumerate(advances):
        width += advance
        if width > LINE_PX and i > starts[-1]:
            starts.append(i)
            width = advance
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(advances)], strict=True)]


def _line(outlines: Sequence[Outline | None]) -> Float[np.ndarray, "height width"]:
    """One line. Every square is as large as its frame's scale asks for, and stands with its origin at the pen."""
    frames = [outline.frame for outline in outlines if outline]
    px = TEXT_PX_PER_EM / UNITS_PER_EM
    ascent = max((frame.ascender for frame in frames), default=UNITS_PER_EM) * px
    descent = min((frame.descender for frame in frames), default=0) * px
    height = round(ascent - descent) + 2 * MARGIN_PX
    width = round(sum(map(_advance, outlines))) + 2 * MARGIN_PX
    canvas = np.zeros((height, width), np.float32)
    pen = float(MARGIN_PX)
    for outline in outlines:
        if outline:
            frame = outline.frame
            size = max(round(2 * px / frame.scale), 1)
            left = round(pen - (frame.tx + 1) / 2 * size)
            top = round(MARGIN_PX + ascent - (1 - frame.ty) / 2 * size)
            _paste(canvas, ink(outline, size), top, left)
        pen += _advance(outline)
    return 1 - canvas


def _paste(canvas: np.ndarray, square: np.ndarray, top: int, left: int) -> None:
    """Adds ink to the part of the canvas that the square covers."""
    size = len(square)
    part = canvas[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    seen = square[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
    np.maximum(part, seen, out=part)
