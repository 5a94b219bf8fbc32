"""Outlines as an installable TrueType font.

TrueType fills by the non-zero rule, the model's outlines are filled by the even-odd rule. Where the two differ
(contours that overlap, or holes that turn the wrong way), Skia makes contours of the same picture for which they
agree; all others are kept point by point.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pathops
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.basePen import AbstractPen
from fontTools.pens.boundsPen import ControlBoundsPen
from fontTools.pens.recordingPen import RecordingPen
from fontTools.pens.roundingPen import RoundingPen
from fontTools.pens.transformPen import TransformPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.tables._g_l_y_f import Glyph

from jaxvae.outlines import END, Command, L, M, Q, Z
from jaxvae.use.frames import UNITS_PER_EM
from jaxvae.use.winding import winding_numbers

# Coordinates of a TrueType glyph are 16 bits with a sign.
LARGEST_COORDINATE = 2**15 - 1
# The two rules are compared on so many points in each direction; what Skia makes may differ at this share of them.
SAMPLES = 128
TOLERATED = 0.005
# Skia fails on some outlines, or gives another picture, and on others if they are scaled.
SCALES = (1.0, 10.0, 1.37, 0.1)
SPACE_EM = 0.3
# When every font says that it was made: 2000-01-01, in seconds since 1904.
CREATED = 3_029_529_600


class FontGlyph(NamedTuple):
    """One glyph of a font to be written, in units of 1 / `UNITS_PER_EM` em; an advance below 0 counts as 0."""

    name: str
    codepoint: int
    commands: Sequence[Command]
    advance: float


def write_font(
    path: Path, family: str, glyphs: Sequence[FontGlyph], ascender: float, descender: float, about: str = ""
) -> list[str]:
    """Writes a TTF whole or not at all; the same arguments give the same bytes.

    Besides `glyphs` it has a .notdef and a space. Coordinates are rounded to whole units, by at most 0.25/1000 em.

    Args:
      glyphs: names and code points are distinct.
      ascender, descender: of the line.
      about: the font's description.

    Returns:
      A line for every glyph that is not as predicted, with the reason.
    """
    notes: list[str] = []
    builder = FontBuilder(UNITS_PER_EM, isTTF=True)
    builder.font.recalcTimestamp = False
    builder.updateHead(created=CREATED, modified=CREATED)
    builder.setupGlyphOrder([".notdef", "space", *(glyph.name for glyph in glyphs)])
    builder.setupCharacterMap({ord(" "): "space"} | {glyph.codepoint: glyph.name for glyph in glyphs})
    empty = TTGlyphPen(None).glyph()
    outlines = {".notdef": empty, "space": empty}
    for glyph in glyphs:
        outlines[glyph.name], note = _outline(glyph.commands)
        notes += [f"{glyph.name}: {note}"] if note else []
    builder.setupGlyf(outlines)
    advances = {".notdef": SPACE_EM * UNITS_PER_EM, "space": SPACE_EM * UNITS_PER_EM}
    advances |= {glyph.name: max(glyph.advance, 0.0) for glyph in glyphs}
    table = builder.font["glyf"]
    metrics = {name: (round(advance), getattr(table[name], "xMin", 0)) for name, advance in advances.items()}
    builder.setupHorizontalMetrics(metrics)
    line = {"ascent": round(ascender), "descent": round(descender)}
    builder.setupHorizontalHeader(**line)
    names = {"familyName": family, "styleName": "Regular", "fullName": family, "version": "Version 1.000"}
    # A PostScript name has no blanks, and is how systems tell fonts apart.
    names |= {"psName": "".join(c for c in family if c.isalnum() or c == "-"), "uniqueFontIdentifier": family}
    builder.setupNameTable(names | ({"description": about} if about else {}))
    builder.setupOS2(
        sTypoAscender=line["ascent"],
        sTypoDescender=line["descent"],
        sTypoLineGap=0,
        usWinAscent=max(line["ascent"], 0),
        usWinDescent=max(-line["descent"], 0),
    )
    builder.setupPost()
    beside = path.with_name(path.name + ".tmp")
    try:
        builder.save(beside)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return notes


def draw(commands: Iterable[Command], pen: AbstractPen) -> None:
    """Draws an outline as `jaxvae.raster` does: closed contours, each begun by an M or where the last one began.

    Nothing is drawn before the first M and after END; contours without a line or curve are left out.
    """
    origin, contour = None, []
    for command, args in [*commands, Command(END, ())]:
        if command in (L, Q) and origin is not None:
            contour.append((command, args))
        elif command in (M, Z, END):
            if contour:
                _draw_contour(origin, contour, pen)
            contour = []
            origin = args if command == M else origin
        if command == END:
            return


def _draw_contour(origin: tuple[float, ...], contour: list[tuple[int, tuple[float, ...]]], pen: AbstractPen) -> None:
    pen.moveTo(origin)
    for command, args in contour:
        if command == L:
            pen.lineTo(args)
        else:
            pen.qCurveTo(args[:2], args[2:])
    pen.closePath()


def _outline(commands: Sequence[Command]) -> tuple[Glyph, str]:
    """The glyph, and what has to be said of it."""
    points = [abs(x) for _, args in commands for x in args]
    if max(points, default=0) > LARGEST_COORDINATE:
        return TTGlyphPen(None).glyph(), "left empty: a coordinate is too large for TrueType"
    drawn = RecordingPen()
    draw(commands, drawn)
    outline, agrees = _agreeing(drawn)
    pen = TTGlyphPen(None)
    outline.replay(RoundingPen(pen))
    note = "" if agrees else "overlaps could not be resolved, so the font shows holes as filled"
    return pen.glyph(dropImpliedOnCurves=False), note


def _agreeing(drawn: RecordingPen) -> tuple[RecordingPen, bool]:
    """The same picture with contours for which the two rules agree, and whether that could be had."""
    box = ControlBoundsPen(None)
    drawn.replay(box)
    if box.bounds is None:
        return drawn, True
    left, bottom, right, top = box.bounds
    x, y = (low + (np.arange(SAMPLES) + 0.5) * (high - low) / SAMPLES for low, high in ((left, right), (bottom, top)))
    numbers = winding_numbers(drawn, x, y)
    inside = numbers % 2 == 1
    if ((numbers != 0) == inside).all():
        return drawn, True
    for scale in SCALES:
        candidate = _resolve(drawn, scale)
        if candidate and ((winding_numbers(candidate, x, y) != 0) != inside).mean() <= TOLERATED:
            return candidate, True
    return drawn, False


def _resolve(drawn: RecordingPen, scale: float) -> RecordingPen | None:
    """What Skia makes of the picture, computed at another scale; None where it gives up."""
    path = pathops.Path(fillType=pathops.FillType.EVEN_ODD)
    drawn.replay(TransformPen(path.getPen(), (scale, 0, 0, scale, 0, 0)))
    try:
        path.simplify(fix_winding=True)
    except pathops.PathOpsError:
        return None
    resolved = RecordingPen()
    path.draw(TransformPen(resolved, (1 / scale, 0, 0, 1 / scale, 0, 0)))
    return resolved
