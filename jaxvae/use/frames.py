"""Where an outline stands in a line of text: how normalised units become units of a font, and the advance."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvae.data.glyphs import Glyph
from jaxvae.data.glyphs.faces import LINE_HEIGHT
from jaxvae.data.glyphs.tokens import coordinate_mask
from jaxvae.outlines import SMALLEST_SCALE

# Of everything that is written, whatever the fonts of the data have, so that glyphs of several fonts go together.
UNITS_PER_EM = 2048
# Space right of an outline whose advance is not known, em.
SIDE_BEARING_EM = 0.05
# A point so close to the border of the square [-1, 1] stands on it.
_ON_BORDER = 1e-5


class Frame(NamedTuple):
    """Norm and metrics of a glyph, in units of 1 / `UNITS_PER_EM` em.

    Attributes:
      scale, tx, ty: normalised = scale * units + t.
      advance: from the glyph's origin to that of the next.
      ascender, descender: top and bottom of the line, descender below 0.
    """

    scale: float
    tx: float
    ty: float
    advance: float
    ascender: float
    descender: float

    @classmethod
    def of(cls, glyph: Glyph) -> "Frame":
        """The frame of a glyph of the data, from its norm.

        Fonts are read with the middles of advance and line at 0 (`jaxvae.data.glyphs.fonts`), which gives both back.
        It does not for a glyph that was shifted into the square, and for a file without norms: such a glyph advances by
        its right edge and `SIDE_BEARING_EM`, and the line lies around 0.
        """
        scale, tx, ty = glyph.norm.astype(np.float64).tolist()
        if abs(scale) < SMALLEST_SCALE:
            tx = ty = 0.0
        unit = glyph.em / UNITS_PER_EM
        points = glyph.coords.reshape(-1, 2)[coordinate_mask(glyph.commands)[:, ::2].reshape(-1)].astype(np.float64)
        shifted = (np.abs(points) > 1 - _ON_BORDER).any(0)
        advance = -2 * tx / unit
        if shifted[0] or advance <= 0:
            advance = (points[:, 0].max() - tx) / unit + SIDE_BEARING_EM * UNITS_PER_EM
        middle = 0.0 if shifted[1] else -ty / unit
        half = LINE_HEIGHT / 2 / unit
        return cls(unit, tx, ty, advance, middle + half, middle - half)

    @property
    def norm(self) -> Float[np.ndarray, "3"]:
        return np.array([self.scale, self.tx, self.ty])

    def toward(self, other: "Frame", t: float) -> "Frame":
        """This frame at t = 0, `other` at t = 1, in between a mean of all numbers."""
        return Frame(*((1 - t) * a + t * b for a, b in zip(self, other, strict=True)))
