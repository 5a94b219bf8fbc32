"""Glyphs from font files: TrueType and OpenType (quadratic or cubic), single fonts and collections."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from fontTools.cu2qu import curve_to_quadratic
from fontTools.pens.basePen import BasePen, decomposeQuadraticSegment
from fontTools.ttLib import TTFont
from fontTools.ttLib.sfnt import readTTCHeader

from jaxvae.data.glyphs.tokens import (
    Contour,
    Glyph,
    coordinate_mask,
    glyph_label,
    reason_to_skip,
    tokens_from_contours,
    topology_bits,
)
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError
from jaxvae.outlines import L, M, Q

FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
# The text families among the fonts that matplotlib carries; DejaVu*Display has a few glyphs only.
EMBEDDED_FONTS = re.compile(r"DejaVu(Sans|Serif|SansMono)(-(Bold|Italic|Oblique|BoldItalic|BoldOblique))?\.ttf")

CHARSETS = {"ascii": "U+0021-007E", "latin": "U+0021-024F", "all": "U+0000-10FFFF"}
_RANGE = re.compile(r"U\+([0-9A-F]{1,6})(?:-(?:U\+)?([0-9A-F]{1,6}))?", re.IGNORECASE)
LAST_CODEPOINT = 0x10FFFF

# A font's em, or its line if that is higher, fills this much of the square's side 2.
LINE_HEIGHT = 1.8
# Largest distance between a cubic and the quadratics that replace it, em.
CUBIC_TOLERANCE_EM = 0.001


def embedded_fonts() -> list[Path]:
    """DejaVu Sans, Serif and Sans Mono in four styles each, from matplotlib's files: no download."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for path in folder.iterdir() if EMBEDDED_FONTS.fullmatch(path.name))


def find_fonts(places: Iterable[Path]) -> list[Path]:
    """The font files that existing files and folders mean, sorted; a folder is searched with all below it.

    Raises:
      UserError: if a folder holds no font, or one in it cannot be opened.
    """
    found = set()
    for place in places:
        fonts = set(_fonts_below(place)) if place.is_dir() else {place}
        if not fonts:
            raise UserError(
                f"config.data.path: no font found in {str(place)!r}: a folder has to hold {', '.join(FONT_SUFFIXES)}, "
                "in it or below (a .npz is named by its own path)"
            )
        found |= fonts
    return sorted(found)


def _fonts_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError):
        raise UserError(f"config.data.path: the folder {error.filename} cannot be read: {error.strerror}")

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (file for name in names if _is_font(file := Path(place, name)))


def _is_font(file: Path) -> bool:
    # A link that leads nowhere counts: it is then reported as unreadable instead of passed over.
    return file.suffix.lower() in FONT_SUFFIXES and (file.is_file() or file.is_symlink())


def parse_charset(charset: str) -> list[range]:
    """Ranges of code points: 'ascii', 'latin', 'all', or such as 'U+0041-005A,U+4E00'.

    Raises:
      UserError: if it is none of these.
    """
    ranges = []
    for part in CHARSETS.get(charset, charset).split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1], 16), int(match[2] or match[1], 16)) if match else (1, 0)
        if not first <= last <= LAST_CODEPOINT:
            raise UserError(
                f"config.data.charset = {charset!r} is not understood at {part.strip()!r}: use {', '.join(CHARSETS)}, "
                "or ascending ranges such as U+0041-005A,U+4E00-4E10"
            )
        ranges.append(range(first, last + 1))
    return ranges


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name for every font file: its stem, or as much of its path as tells it from the others."""
    longest = max((len(path.parts) for path in paths), default=0)
    names = [path.stem for path in paths]
    for depth in range(1, longest + 1):
        shared = {name for name, times in Counter(names).items() if times > 1}
        tails = ["/".join(path.parts[-depth:]) for path in paths]
        names = [tail if name in shared else name for name, tail in zip(names, tails, strict=True)]
    return names


def read_fonts(paths: Sequence[Path], charset: str, max_tokens: int) -> tuple[list[Glyph], Skipped]:
    """One example per glyph of every face, with the lowest of its code points, in the order of code points.

    Glyphs without contours, longer than `max_tokens` (END included) or damaged are skipped and named, and so
    are files that cannot be read as fonts.

    Raises:
      UserError: for a charset that cannot be read, or if the only file named is not a font.
    """
    ranges = parse_charset(charset)
    glyphs, skipped = [], Skipped()
    for path, font_name in zip(paths, short_names(paths), strict=True):
        try:
            content = path.read_bytes()
            faces = _count_faces(content)
        # fontTools meets damaged files with whatever the damage leads to: struct, key, assertion errors.
        except Exception as error:
            _refuse(str(path), error, len(paths), skipped)
            continue
        for index in range(faces):
            which = f"#{index}" if faces > 1 else ""
            try:
                face = _Face(content, index, font_name + which)
            except Exception as error:
                _refuse(f"{path}{which}", error, len(paths) * faces, skipped)
                continue
            glyphs += _read_face(face, ranges, max_tokens, skipped)
    return glyphs, skipped


def _refuse(place: str, error: Exception, candidates: int, skipped: Skipped) -> None:
    """Notes a face that cannot be read; the only one that was asked for is an error."""
    if candidates == 1:
        raise UserError(
            f"{place} cannot be read as a font: {_describe(error)}: config.data.path takes {', '.join(FONT_SUFFIXES)}, "
            "folders of them, or a .npz"
        ) from error
    skipped.add("font unreadable", f"{place}: {_describe(error)}")


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _count_faces(content: bytes) -> int:
    return readTTCHeader(BytesIO(content)).numFonts if content.startswith(b"ttcf") else 1


def _read_face(face: "_Face", ranges: list[range], max_tokens: int, skipped: Skipped) -> list[Glyph]:
    glyphs = []
    for name, codepoint in face.mapped(ranges):
        label = glyph_label(face.name, name, codepoint)
        pen = _ContourPen(face.glyph_set, CUBIC_TOLERANCE_EM * face.units_per_em)
        try:
            outline = face.glyph_set[name]
            outline.draw(pen)
            advance = outline.width
        except Exception as error:
            skipped.add("glyph damaged", f"{label}: {_describe(error)}")
            continue
        if not pen.contours:
            skipped.add("glyph without contours", label)
            continue
        glyph = face.glyph(pen.contours, advance, codepoint, name)
        if reason := reason_to_skip(glyph, max_tokens):
            skipped.add(reason, label)
        else:
            glyphs.append(glyph)
    return glyphs


class _Face:
    """A face, and how it is put into the square [-1, 1]^2: at one scale, so that sizes compare."""

    def __init__(self, content: bytes, index: int, name: str):
        self.name = name
        font = TTFont(BytesIO(content), fontNumber=index, lazy=True)
        self.glyph_set = font.getGlyphSet()
        self.cmap = font.getBestCmap()
        if self.cmap is None:
            raise ValueError("no Unicode character map")
        self.units_per_em = font["head"].unitsPerEm
        ascender, descender = font["hhea"].ascender, font["hhea"].descender
        self.scale = LINE_HEIGHT / max(self.units_per_em, ascender - descender)
        self.middle = (ascender + descender) / 2

    def mapped(self, ranges: list[range]) -> Iterator[tuple[str, int]]:
        """Each mapped glyph once, with the lowest of its code points in the ranges."""
        seen = set()
        for codepoint, name in sorted(self.cmap.items()):
            if name not in seen and any(codepoint in r for r in ranges):
                seen.add(name)
                yield name, codepoint

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
        )


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
