"""One face of a font file: what it is called, its glyphs as contours, and how these are put into the square."""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from fontTools.cu2qu import curve_to_quadratic
from fontTools.pens.basePen import BasePen, decomposeQuadraticSegment
from fontTools.ttLib import TTFont

from jaxvae.data.glyphs.charsets import Charset
from jaxvae.data.glyphs.tokens import Contour, Glyph, coordinate_mask, tokens_from_contours, topology_bits
from jaxvae.outlines import L, M, Q

# A font's em, or its line if that is higher, fills this much of the square's side 2.
LINE_HEIGHT = 1.8


class Face:
    """A face, and how it is put into the square [-1, 1]^2: at one scale, so that sizes compare.

    Args:
      content: of a font file.
      index: of the face in a collection; 0 otherwise.
      file: name of the file.
      name: name of the face.

    Raises:
      Exception: whatever fontTools meets in a file that is damaged or no font.
    """

    def __init__(self, content: bytes, index: int, file: str, name: str):
        self.file, self.name = file, name
        font = TTFont(BytesIO(content), fontNumber=index, lazy=True)
        self.family = _family(font) or file
        self.glyph_set = font.getGlyphSet()
        self.cmap = font.getBestCmap()
        if self.cmap is None:
            raise ValueError("no Unicode character map")
        self.units_per_em = font["head"].unitsPerEm
        ascender, descender = font["hhea"].ascender, font["hhea"].descender
        self.scale = LINE_HEIGHT / max(self.units_per_em, ascender - descender)
        self.middle = (ascender + descender) / 2

    def mapped(self, charset: Charset) -> Iterator[tuple[str, int]]:
        """Each mapped glyph once, with the lowest of its code points in the charset."""
        seen = set()
        for codepoint, name in sorted(self.cmap.items()):
            if name not in seen and codepoint in charset:
                seen.add(name)
                yield name, codepoint

    def draw(self, name: str, cubic_tolerance_em: float) -> tuple[list[Contour], int | float]:
        """Contours of a glyph, and its advance, in font units; cubics become quadratics within the tolerance, em."""
        pen = _ContourPen(self.glyph_set, cubic_tolerance_em * self.units_per_em)
        outline = self.glyph_set[name]
        outline.draw(pen)
        return pen.contours, outline.width

    def norm(self, low: np.ndarray, high: np.ndarray, advance: int | float) -> np.ndarray:
        """(s, tx, ty) for a glyph with the box `low`, `high`; the middles of advance and line go to 0.

        A glyph that would leave the square is shifted until it fits, and shrunk if it is larger than the
        square.
        """
        scale = min(self.scale, *(2 / np.maximum(high - low, 1e-6)))
        shift = -scale * np.array([advance / 2, self.middle])
        shift = np.clip(shift, -1 - scale * low, 1 - scale * high)
        return np.array([scale, *shift])

    def glyph(self, contours: list[Contour], advance: int | float, codepoint: int, name: str) -> Glyph:
        commands, coords, contour_ids = tokens_from_contours(contours)
        used = coordinate_mask(commands)
        # Control points count too: every argument is to lie in the square.
        points = coords.reshape(-1, 2)[used[:, ::2].reshape(-1)]
        scale, *shift = norm = self.norm(points.min(0), points.max(0), advance)
        return Glyph(
            commands=commands,
            coords=np.where(used, scale * coords + np.tile(shift, 2), 0.0).astype(np.float32),
            contour_ids=contour_ids,
            topology=topology_bits(commands),
            norm=norm.astype(np.float32),
            em=float(scale) * self.units_per_em,
            codepoint=codepoint,
            name=name,
            font=self.name,
            file=self.file,
            family=self.family,
        )


def _family(font: TTFont) -> str:
    """The family by the name table, the typographic one if there is one; '' if there is none that can be read."""
    try:
        return (font["name"].getBestFamilyName() or "").strip()
    except Exception:  # outlines can be whole where names are damaged or missing
        return ""


class _ContourPen(BasePen):
    """Collects contours of lines and quadratics; the base class resolves components and implied points.

    A contour that draws nothing (a lone point) is left out; an open one counts as closed, as filling does.
    """

    def __init__(self, glyph_set, cubic_tolerance: float):
        super().__init__(glyph_set)
        self.contours: list[Contour] = []
        self._tolerance = cubic_tolerance

    def _moveTo(self, pt):
        self._commands, self._coords = [M], [(*pt, 0.0, 0.0)]

    def _lineTo(self, pt):
        self._commands.append(L)
        self._coords.append((*pt, 0.0, 0.0))

    def _qCurveToOne(self, pt1, pt2):
        self._commands.append(Q)
        self._coords.append((*pt1, *pt2))

    def _curveToOne(self, pt1, pt2, pt3):
        spline = curve_to_quadratic((self._getCurrentPoint(), pt1, pt2, pt3), self._tolerance)
        for control, point in decomposeQuadraticSegment(spline[1:]):
            self._qCurveToOne(control, point)

    def _closePath(self):
        if len(self._commands) > 1:
            self.contours.append(Contour(self._commands, self._coords))

    _endPath = _closePath
