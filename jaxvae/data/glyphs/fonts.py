"""Glyphs from font files: TrueType and OpenType (quadratic or cubic), single fonts and collections."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import matplotlib
from fontTools.ttLib.sfnt import readTTCHeader

from jaxvae.data.glyphs.charsets import Charset, parse_charset
from jaxvae.data.glyphs.faces import Face
from jaxvae.data.glyphs.overlaps import Overlaps, UnresolvedOverlap, resolve_overlaps
from jaxvae.data.glyphs.tokens import Glyph, glyph_label, reason_to_skip
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError

FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
# The text families among the fonts that matplotlib carries; DejaVu*Display has a few glyphs only.
EMBEDDED_FONTS = re.compile(r"DejaVu(Sans|Serif|SansMono)(-(Bold|Italic|Oblique|BoldItalic|BoldOblique))?\.ttf")

# Largest distance between a cubic and the quadratics that replace it, em.
CUBIC_TOLERANCE_EM = 0.001


@dataclass(frozen=True)
class OutlineSettings:
    """What is taken from fonts, and how; a prepared data set was made with one of these.

    Attributes:
      charset: which characters.
      max_tokens: longest outline, END included.
      overlaps: 'resolve' makes outlines even-odd (`resolve_overlaps`), 'keep' takes them as they are.
      cubic_tolerance_em: largest distance between a cubic and the quadratics that replace it, em.
    """

    charset: Charset
    max_tokens: int
    overlaps: Overlaps = "resolve"
    cubic_tolerance_em: float = CUBIC_TOLERANCE_EM


@dataclass
class FontReading:
    """What was read from one font file.

    `resolved` counts outlines that were redrawn; `listed` holds the listed characters of the charset that it maps.
    """

    path: Path
    digest: str
    glyphs: list[Glyph] = field(default_factory=list)
    resolved: int = 0
    listed: set[int] = field(default_factory=set)


def embedded_fonts() -> list[Path]:
    """DejaVu Sans, Serif and Sans Mono in four styles each, from matplotlib's files: no download."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for path in folder.iterdir() if EMBEDDED_FONTS.fullmatch(path.name))


def find_fonts(places: Iterable[Path], key: str = "config.data.path") -> list[Path]:
    """The font files that existing files and folders mean, sorted; a folder is searched with all below it.

    Raises:
      UserError: if a folder holds no font, or one in it cannot be opened; it begins with `key`.
    """
    found = set()
    for place in places:
        fonts = set(_fonts_below(place, key)) if place.is_dir() else {place}
        if not fonts:
            raise UserError(
                f"{key}: no font found in {str(place)!r}: a folder has to hold {', '.join(FONT_SUFFIXES)}, "
                "in it or below (a .npz is named by its own path)"
            )
        found |= fonts
    return sorted(found)


def _fonts_below(folder: Path, key: str) -> Iterator[Path]:
    def refuse(error: OSError):
        raise UserError(f"{key}: the folder {error.filename} cannot be read: {error.strerror}")

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (file for name in names if _is_font(file := Path(place, name)))


def _is_font(file: Path) -> bool:
    # A link that leads nowhere counts: it is then reported as unreadable instead of passed over.
    return file.suffix.lower() in FONT_SUFFIXES and (file.is_file() or file.is_symlink())


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name for every font file: its stem, or as much of its path as tells it from the others."""
    longest = max((len(path.parts) for path in paths), default=0)
    names = [path.stem for path in paths]
    for depth in range(1, longest + 1):
        shared = {name for name, times in Counter(names).items() if times > 1}
        tails = ["/".join(path.parts[-depth:]) for path in paths]
        names = [tail if name in shared else name for name, tail in zip(names, tails, strict=True)]
    return names


def read_fonts(paths: Sequence[Path], charset: str, max_tokens: int, **settings) -> tuple[list[Glyph], Skipped]:
    """All glyphs of `read_each` with `OutlineSettings(parse_charset(charset), max_tokens, **settings)`.

    Raises:
      UserError: for a charset that cannot be read, or if the only file named is not a font.
    """
    skipped = Skipped()
    readings = list(read_each(paths, OutlineSettings(parse_charset(charset), max_tokens, **settings), skipped))
    return [glyph for reading in readings for glyph in reading.glyphs], skipped


def read_each(paths: Sequence[Path], settings: OutlineSettings, skipped: Skipped) -> Iterator[FontReading]:
    """Reads file after file: one example per glyph of every face, with the lowest of its code points, in their order.

    Glyphs without contours, too long, damaged, or with overlaps that cannot be resolved are added to `skipped`, and
    so are files that cannot be read as fonts and, at the end, listed characters that no font has.

    Raises:
      UserError: if the only file named is not a font.
    """
    listed = set()
    for path, name in zip(paths, short_names(paths), strict=True):
        try:
            content = path.read_bytes()
            count = _count_faces(content)
        # fontTools meets damaged files with whatever the damage leads to: struct, key, assertion errors.
        except Exception as error:
            _refuse(str(path), error, len(paths), skipped)
            continue
        faces = []
        for index in range(count):
            which = f"#{index}" if count > 1 else ""
            try:
                faces.append(Face(content, index, name, name + which))
            except Exception as error:
                _refuse(f"{path}{which}", error, len(paths) * count, skipped)
        reading = FontReading(path, hashlib.blake2b(content, digest_size=16).hexdigest())
        for face in faces:
            _read_face(face, settings, reading, skipped)
        listed |= reading.listed
        if faces:
            yield reading
    settings.charset.report_missing(listed, skipped)


def _refuse(place: str, error: Exception, candidates: int, skipped: Skipped) -> None:
    """Notes a face that cannot be read; the only one that was asked for is an error."""
    if candidates == 1:
        raise UserError(
            f"{place} cannot be read as a font: {_describe(error)}: a font file is one of {', '.join(FONT_SUFFIXES)}"
        ) from error
    skipped.add("font unreadable", f"{place}: {_describe(error)}")


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _count_faces(content: bytes) -> int:
    return readTTCHeader(BytesIO(content)).numFonts if content.startswith(b"ttcf") else 1


def _read_face(face: Face, settings: OutlineSettings, reading: FontReading, skipped: Skipped) -> None:
    """Adds a face and its glyphs to what was read from its file."""
    reading.listed |= settings.charset.listed & face.cmap.keys()
    for name, codepoint in face.mapped(settings.charset):
        label = glyph_label(face.name, name, codepoint)
        try:
            contours, advance = face.draw(name, settings.cubic_tolerance_em)
            drawn = contours
            if settings.overlaps == "resolve" and contours:
                contours = resolve_overlaps(drawn, face.units_per_em)
        except UnresolvedOverlap:
            skipped.add("glyph with overlaps that cannot be resolved", label)
            continue
        except Exception as error:
            skipped.add("glyph damaged", f"{label}: {_describe(error)}")
            continue
        if not contours:
            skipped.add("glyph without contours", label)
            continue
        glyph = face.glyph(contours, advance, codepoint, name)
        if reason := reason_to_skip(glyph, settings.max_tokens):
            skipped.add(reason, label)
        else:
            reading.glyphs.append(glyph)
            reading.resolved += contours is not drawn
