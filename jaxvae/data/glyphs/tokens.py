"""One glyph as tokens, and building the tokens from contours.

Source: specification of the glyph VAE, section 2.2, "Convention for our own builder".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxvae.outlines import END, HOLE, NEW, TOPOLOGY_BITS, L, M, Q, Z, loss_masks

# Grid of `outline_digest`, steps per em. In a font of 2048 units per em many coordinates, and the points
# implied between them, lie exactly on a half; the shift keeps rounding errors from parting equal outlines.
DIGEST_STEPS_PER_EM = 1000
_HALF_STEP = 0.5 + 1 / 1024

_TOPOLOGY = np.zeros(END + 1, np.uint8)
_TOPOLOGY[list(TOPOLOGY_BITS)] = list(TOPOLOGY_BITS.values())


@dataclass(frozen=True, eq=False)
class Glyph:
    """The outline of one glyph, without padding; L tokens, END included."""

    commands: Int[np.ndarray, " L"]
    coords: Float[np.ndarray, "L 4"]  # normalised units, y up
    contour_ids: Int[np.ndarray, " L"]  # 0.. in stored order; -1 = none
    topology: UInt8[np.ndarray, " L"]  # bits: 1 new contour, 2 hole, 4 end
    norm: Float[np.ndarray, "3"]  # (s, tx, ty): normalised = s * font units + t
    em: float  # normalised units per em
    codepoint: int  # -1 = unknown
    name: str  # the font's name of the glyph
    font: str  # the font: its file, and its face in a collection
    file: str  # the file alone, as short as tells it from the others
    family: str  # by the font's name table

    def __len__(self) -> int:
        return len(self.commands)

    @property
    def label(self) -> str:
        """The name of `glyph_label`."""
        return glyph_label(self.font, self.name, self.codepoint)


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed contour in font units: an M, then L and Q; no line back to the start is needed."""

    commands: Sequence[int]
    coords: Sequence[tuple[int | float, ...]]  # four arguments per command

    def area(self) -> int | float:
        """Signed area, positive counter-clockwise, exact for lines and quadratics (Green's theorem)."""
        twice, (start_x, start_y) = 0.0, self.coords[0][:2]
        x0, y0 = start_x, start_y
        for command, (a, b, c, d) in zip(self.commands[1:], self.coords[1:], strict=True):
            x1, y1 = (c, d) if command == Q else (a, b)
            chord = x0 * y1 - x1 * y0
            if command == Q:
                chord = (2 * (x0 * b - a * y0) + 2 * (a * y1 - x1 * b) + chord) / 3
            twice += chord
            x0, y0 = x1, y1
        return 0.5 * (twice + x0 * start_y - start_x * y0)


def glyph_label(font: str, name: str, codepoint: int) -> str:
    """'font/glyph U+XXXX', or 'font/glyph' where the code point is unknown (-1)."""
    return f"{font}/{name}" + (f" U+{codepoint:04X}" if codepoint >= 0 else "")


def topology_bits(commands: Int[np.ndarray, " L"]) -> UInt8[np.ndarray, " L"]:
    """1 on NEW, 2 on HOLE, 4 on END, else 0. Source: specification of the glyph VAE, section 2.2."""
    return _TOPOLOGY[commands]


def tokens_from_contours(
    contours: Sequence[Contour],
) -> tuple[Int[np.ndarray, " L"], Float[np.ndarray, "L 4"], Int[np.ndarray, " L"]]:
    """Commands, arguments (float64, font units) and contour ids: `[NEW|HOLE] M (L|Q)* Z` per contour, END.

    A hole turns the other way than the contour of largest area, so that fonts of either winding work
    (TrueType fills clockwise contours, CFF counter-clockwise ones). END carries the id of the last contour.

    Args:
      contours: at least one, in stored order.
    """
    areas = [contour.area() for contour in contours]
    filled = max(areas, key=abs)
    none = (0.0, 0.0, 0.0, 0.0)
    commands, coords, ids = [], [], []
    for i, (contour, area) in enumerate(zip(contours, areas, strict=True)):
        commands += [HOLE if area * filled < 0 else NEW, *contour.commands, Z]
        coords += [none, *contour.coords, none]
        ids += [i] * (len(contour.commands) + 2)
    commands.append(END)
    coords.append(none)
    ids.append(ids[-1])
    return np.array(commands, np.int32), np.array(coords, np.float64), np.array(ids, np.int32)


def coordinate_mask(commands: Int[np.ndarray, " L"]) -> np.ndarray:
    """The arguments that the commands have, [L, 4]."""
    return loss_masks(commands, np.ones(len(commands), bool))[1]


def reason_to_skip(glyph: Glyph, max_tokens: int) -> str:
    """Why a model of `max_tokens` slots cannot train on the glyph; '' if it can."""
    if not np.isin(glyph.commands, (L, Q)).any():
        return "glyph without contours"
    if len(glyph) > max_tokens:
        return too_long(max_tokens)
    return ""


def too_long(max_tokens: int) -> str:
    """The reason to skip a glyph of more tokens."""
    return f"glyph longer than {max_tokens} tokens"


def outline_digest(glyph: Glyph) -> str:
    """A digest that equal outlines share, wherever they stand and however they were scaled.

    Coordinates are taken relative to the first point of the outline, divided by the em and rounded to 1/1000
    em. Contours in another order or with other starting points are another outline.
    """
    used = coordinate_mask(glyph.commands)
    moves = np.flatnonzero(glyph.commands == M)
    origin = glyph.coords[moves[0], :2] if len(moves) else np.zeros(2)
    em = (glyph.coords.astype(np.float64) - np.tile(origin, 2)) / glyph.em
    steps = np.where(used, np.floor(em * DIGEST_STEPS_PER_EM + _HALF_STEP), 0).astype("<i4")
    content = glyph.commands.astype(np.uint8).tobytes() + steps.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
