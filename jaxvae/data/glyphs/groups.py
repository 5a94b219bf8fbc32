"""Glyphs by kind, and the glyph that looks most like another: what results are compared by."""

import numpy as np
from fontTools import unicodedata
from jaxtyping import Float, Int

from jaxvae.data.glyphs.sdf import stage_sdf
from jaxvae.data.glyphs.tokens import Glyph

# Upper ends of the groups of lengths, tokens.
LENGTHS = (16, 32, 64, 128, 256)
# Side and clip of the images in which glyphs are compared, px.
SIZE, CLIP = 32, 4.0
# Images that are compared at a time; their distances take 4 bytes for each glyph to choose from.
CHUNK = 256


def script_of(codepoint: int) -> str:
    """The script of a character by its Unicode name ('Latin', 'Han'); 'unknown' for -1."""
    if codepoint < 0:
        return "unknown"
    return unicodedata.script_name(unicodedata.script(chr(codepoint)))


def length_group(tokens: int) -> str:
    """Such as '17 to 32 tokens'."""
    low = 1
    for high in LENGTHS:
        if tokens <= high:
            return f"{low} to {high} tokens"
        low = high + 1
    return f"{low} tokens and more"


def images(glyphs: list[Glyph]) -> Float[np.ndarray, "n pixels"]:
    """Signed distances of whole glyphs, one row each."""
    masks = (np.ones(len(glyph), bool) for glyph in glyphs)
    rows = [stage_sdf(g.commands, g.coords, mask, SIZE, CLIP).ravel() for g, mask in zip(glyphs, masks, strict=True)]
    return np.stack(rows)


def nearest(queries: list[Glyph], glyphs: list[Glyph]) -> Int[np.ndarray, " queries"]:
    """For each query the index of the glyph whose image differs least, in the mean square."""
    rows = images(glyphs)
    squares = np.square(rows).sum(1)
    found = []
    for start in range(0, len(queries), CHUNK):
        found.append((squares - 2 * images(queries[start : start + CHUNK]) @ rows.T).argmin(1))
    return np.concatenate(found)
