"""Which glyphs of a run's data are meant: by text and font, or at random."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxvae.data.glyphs import Glyph, GlyphSource
from jaxvae.errors import UserError, choose

# Characters and fonts named in a message.
NAMES_SHOWN = 10


class Chosen(NamedTuple):
    """A glyph, and the split that it is from."""

    glyph: Glyph
    split: str


def candidates(sources: Mapping[str, GlyphSource], split: str, font: str) -> list[Chosen]:
    """The glyphs of a split, or of 'all', and of a font, or of all fonts ('').

    Raises:
      UserError: if there is no such split or font.
    """
    choose("--split", split, (*sources, "all"))
    chosen = [Chosen(g, name) for name, source in sources.items() if split in (name, "all") for g in source.glyphs]
    if font:
        choose("--font", font, {each.glyph.font for each in chosen})
        chosen = [each for each in chosen if each.glyph.font == font]
    return chosen


def choose_at_random(among: Sequence[Chosen], count: int, seed: int) -> list[Chosen]:
    """`count` glyphs, or all if there are fewer, in the order of the data; a pure function of the arguments."""
    count = min(count, len(among))
    return [among[i] for i in sorted(np.random.default_rng(seed).choice(len(among), count, replace=False))]


def choose_text(among: Sequence[Chosen], text: str) -> list[Chosen | None]:
    """A glyph for every character of `text`, all from one font; None for blanks.

    The font is the one with most of the characters, and of several the first of the data.

    Raises:
      UserError: if `text` has no character but blanks, or the font lacks some.
    """
    wanted = list(dict.fromkeys(c for c in text if not c.isspace()))
    if not wanted:
        raise UserError(f"--text={text!r} has no character: give at least one that is no blank")
    fonts: dict[str, dict[int, Chosen]] = {}
    for each in among:
        fonts.setdefault(each.glyph.font, {}).setdefault(each.glyph.codepoint, each)
    font = max(fonts, key=lambda name: sum(ord(c) in fonts[name] for c in wanted))
    if lacking := [c for c in wanted if ord(c) not in fonts[font]]:
        shown = ", ".join(f"{c!r} U+{ord(c):04X}" for c in lacking[:NAMES_SHOWN])
        more = f" and {len(lacking) - NAMES_SHOWN} more" if len(lacking) > NAMES_SHOWN else ""
        which = f"{font} lacks" if len(fonts) == 1 else f"no font of the data has all characters, and {font} lacks"
        raise UserError(f"--text: {which} {shown}{more}: leave them out, or name other data by --font or --split")
    return [None if c.isspace() else fonts[font][ord(c)] for c in text]
