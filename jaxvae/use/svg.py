"""An outline as an SVG file."""

from collections.abc import Sequence

from jaxvae.outlines import Command, to_svg_path
from jaxvae.use.frames import Frame


def svg_document(commands: Sequence[Command], frame: Frame) -> str:
    """The text of an SVG file: black, filled by the even-odd rule, one unit of `frame` per user unit.

    The view is the glyph's place in a line, advance by line height; what goes beyond it is shown too. Coordinates in
    the path are those of `commands`, y up; the y axis is turned by a transform.
    """
    box = f"0 {-frame.ascender:.3f} {frame.advance:.3f} {frame.ascender - frame.descender:.3f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" overflow="visible">\n'
        f'<path fill-rule="evenodd" transform="scale(1 -1)" d="{to_svg_path(commands)}"/>\n'
        "</svg>\n"
    )
