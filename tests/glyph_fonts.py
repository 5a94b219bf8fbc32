"""Fonts built for tests."""

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen

UPM = 1000


def draw(pen, *contours):
    for contour in contours:
        pen.moveTo(contour[0])
        for point in contour[1:]:
            pen.lineTo(point)
        pen.closePath()


def build(is_cff=False, names=None, **glyphs):
    """A font of 'space', 'zero', ... ; each glyph is a function of a pen, or None for one without outline.

    `names` are entries of the name table, by fontTools' names of them.
    """
    order = [".notdef", *glyphs]
    builder = FontBuilder(UPM, isTTF=not is_cff)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap({ord(name): name for name in glyphs})
    drawn = {}
    for name in order:
        pen = T2CharStringPen(600, None) if is_cff else TTGlyphPen(drawn)
        if glyphs.get(name):
            glyphs[name](pen)
        drawn[name] = pen.getCharString() if is_cff else pen.glyph()
    if is_cff:
        builder.setupCFF("Test", {}, drawn, {})
        builder.setupHorizontalMetrics({name: (600, 0) for name in order})
    else:
        builder.setupGlyf(drawn)
        left = {name: getattr(builder.font["glyf"][name], "xMin", 0) for name in order}
        builder.setupHorizontalMetrics({name: (600, left[name]) for name in order})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(names or {"familyName": "Test", "styleName": "Regular"})
    builder.setupPost()
    return builder.font
