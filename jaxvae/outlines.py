"""The language of glyph outlines: vocabulary, masks, decoding, text and SVG.

An outline is a sequence of tokens. Each token has a command (an id below) and four arguments in normalised
units (about [-1, 1], y up): `M`, `L`: (x, y, 0, 0); `Q`: (control x, control y, x, y); others: zeros.
Per contour the sequence is `NEW` or `HOLE`, `M`, any number of `L` and `Q`, `Z`; one `END` closes the outline
and `PAD` fills the rest. Source: specification of the glyph VAE, sections 2.1, 2.6 and 7.

`loss_masks` serves the host and the device; everything else is NumPy on the host.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

PAD, M, L, Q, T, Z, NEW, HOLE, END = range(9)
COMMAND_NAMES = ("<PAD>", "M", "L", "Q", "T", "Z", "<NEW_CNT>", "<HOLE>", "<END>")
NUM_COMMANDS = len(COMMAND_NAMES)

# Bits of the topology channel, set on the token of that kind.
TOPOLOGY_BITS = {NEW: 1, HOLE: 2, END: 4}

# Decoded coordinates are clamped to this distance from the origin, in normalised units.
COORD_LIMIT = 1.2
# A norm with a smaller scale cannot be undone; coordinates then stay normalised.
SMALLEST_SCALE = 1e-8

# NumPy or JAX, traced or not.
AnyArray = Any

_END_POINT_ONLY = np.array([True, True, False, False])


def loss_masks(
    commands: Int[AnyArray, "*batch length"], token_mask: Bool[AnyArray, "*batch length"]
) -> tuple[Bool[AnyArray, "*batch length"], Bool[AnyArray, "*batch length 4"]]:
    """Which commands and which arguments count in a loss.

    A command counts where its token is valid; an argument where, besides, the command has it: channels 0 and
    1 for M, L and Q, channels 2 and 3 for Q. Written with operators only, for NumPy and for JAX inside jit.
    Source: specification of the glyph VAE, section 2.6.
    """
    curves = token_mask & (commands == Q)
    moves = token_mask & ((commands == M) | (commands == L))
    # `|` after `&`: a curve uses all four channels, a move or a line the first two.
    return token_mask, (moves[..., None] & _END_POINT_ONLY) | curves[..., None]


class PrefixCheck(NamedTuple):
    """How a prefix ends; indices are -1 where there is none."""

    ok: Bool[np.ndarray, "*batch"]  # exactly one END, on the last valid token
    num_ends: Int[np.ndarray, "*batch"]  # valid ENDs
    last: Int[np.ndarray, "*batch"]  # index of the last valid token
    last_end: Int[np.ndarray, "*batch"]  # index of the last valid END


def check_prefix(
    commands: Int[np.ndarray, "*batch length"], token_mask: Bool[np.ndarray, "*batch length"]
) -> PrefixCheck:
    """Whether prefixes end as they should. Source: specification of the glyph VAE, section 2.6."""
    ends = token_mask & (commands == END)
    num_ends, last, last_end = ends.sum(-1), _last_true(token_mask), _last_true(ends)
    ok = (num_ends == 1) & (last == last_end)
    return PrefixCheck(*map(np.asarray, (ok, num_ends, last, last_end)))


def _last_true(mask: np.ndarray) -> np.ndarray:
    """Index of the last True along the last axis; -1 where there is none."""
    return np.asarray(np.where(mask, np.arange(mask.shape[-1]), -1).max(-1, initial=-1))


class Command(NamedTuple):
    """A decoded command and its arguments: 2 numbers for M and L, 4 for Q, none for the others."""

    id: int
    args: tuple[float, ...]


def decode(
    logits: Float[np.ndarray, "length commands"],
    coords: Float[np.ndarray, "length 4"],
    token_mask: Bool[np.ndarray, " length"],
    norm: Float[np.ndarray, "3"] | None = None,
) -> list[Command]:
    """Predictions -> commands: the likeliest command of every valid slot, up to and including the first END.

    PAD is left out and the reserved T is read as Q. Coordinates are clamped to `COORD_LIMIT`, then brought
    back to the font's units by `norm` = (s, tx, ty) of x' = s x + tx when it is given, all in float64.
    Source: specification of the glyph VAE, section 7, "Decoding".
    """
    return to_commands(logits.argmax(-1), coords, token_mask, norm)


def to_commands(
    ids: Int[np.ndarray, " length"],
    coords: Float[np.ndarray, "length 4"],
    token_mask: Bool[np.ndarray, " length"],
    norm: Float[np.ndarray, "3"] | None = None,
) -> list[Command]:
    """As `decode`, from commands that are chosen already."""
    coords = np.clip(np.asarray(coords, np.float64), -COORD_LIMIT, COORD_LIMIT)
    if norm is not None:
        scale, *shift = np.asarray(norm, np.float64)
        if abs(scale) >= SMALLEST_SCALE:
            coords = (coords - np.tile(shift, 2)) / scale
    commands = []
    for slot in np.flatnonzero(token_mask):
        command = int(ids[slot])
        if command in (Q, T):
            commands.append(Command(Q, tuple(coords[slot].tolist())))
        elif command in (M, L):
            commands.append(Command(command, tuple(coords[slot, :2].tolist())))
        elif command != PAD:
            commands.append(Command(command, ()))
        if command == END:
            break
    return commands


def to_text(commands: Iterable[Command]) -> str:
    """One command per line, `Q 0.100000 ...` or `<END>`; the last line ends with a newline too.

    Source: specification of the glyph VAE, section 7, "Decoding".
    """
    return "".join(" ".join([COMMAND_NAMES[c], *(f"{a:.6f}" for a in args)]) + "\n" for c, args in commands)


def to_svg_path(commands: Iterable[Command]) -> str:
    """The `d` attribute of an SVG path, y up as before: M, L, Q with 3 decimals and Z, single spaces between.

    A subpath is open from an M on. Z always writes Z; NEW, HOLE and END write it only when a subpath is open.
    Source: specification of the glyph VAE, section 7, "Decoding".
    """
    words, is_open = [], False
    for command, args in commands:
        if command in (M, L, Q):
            words += [COMMAND_NAMES[command], *(f"{a:.3f}" for a in args)]
            is_open |= command == M
        else:
            if command == Z or is_open:
                words.append("Z")
            is_open = False
        if command == END:
            break
    return " ".join(words)
