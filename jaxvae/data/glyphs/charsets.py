"""Which characters of a font to take: by name, by ranges of code points, or from a text file."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError

NAMED_RANGES = {"ascii": "U+0021-007E", "latin": "U+0021-024F", "all": "U+0000-10FFFF"}
NAMES = (*NAMED_RANGES, "gb2312")
LAST_CODEPOINT = 0x10FFFF
# Lead bytes of the hanzi of GB 2312: level 1 (3,755, rows 16 to 55), then level 2 (3,008, rows 56 to 87).
GB2312_LEADS = range(0xB0, 0xF8)
GB2312_TRAILS = range(0xA1, 0xFF)

_RANGE = re.compile(r"U\+([0-9A-F]{1,6})(?:-(?:U\+)?([0-9A-F]{1,6}))?", re.IGNORECASE)


@dataclass(frozen=True)
class Charset:
    """Code points, as ascending ranges that neither meet nor overlap.

    `listed` holds those that were asked for one by one (a file, a list, GB 2312): a font is expected to have them,
    while a range such as U+4E00-9FFF only says where to look.
    """

    ranges: tuple[range, ...]
    listed: frozenset[int] = frozenset()

    def __contains__(self, codepoint: int) -> bool:
        place = bisect_right(self.ranges, codepoint, key=lambda r: r.start)
        return place > 0 and codepoint in self.ranges[place - 1]

    def __str__(self) -> str:
        """All code points as `parse_charset` understands them: 'U+0041-005A,U+4E00'."""
        return ",".join(f"U+{r[0]:04X}" + (f"-{r[-1]:04X}" if len(r) > 1 else "") for r in self.ranges)

    def report_missing(self, found: set[int], skipped: Skipped) -> None:
        """Names the listed characters that are not among those `found` in fonts."""
        for codepoint in sorted(self.listed - found):
            skipped.add("character that no font has", f"U+{codepoint:04X}")


def parse_charset(text: str, key: str = "config.data.charset") -> Charset:
    """The characters that `key = text` means: a name of `NAMES`, ranges, or a text file.

    Ranges are such as 'U+0041-005A,U+4E00'. 'gb2312' is its 6,763 hanzi (levels 1 and 2), without its symbols. Of a
    UTF-8 text file every character is taken but blanks, line ends and other control characters; where commas stand
    between all characters, they separate them and are not taken.

    Raises:
      UserError: if it is none of these, or the file cannot be read or is empty.
    """
    if text == "gb2312":
        return _listing(ord(c) for c in gb2312_hanzi())
    parts = [part.strip() for part in NAMED_RANGES.get(text, text).split(",")]
    matches = [_RANGE.fullmatch(part) for part in parts]
    if not any(matches):
        path = Path(text).expanduser() if text else None
        if path and path.exists():
            return _listing(_characters_of(path, key))
    ranges = []
    for part, match in zip(parts, matches, strict=True):
        first, last = (int(match[1], 16), int(match[2] or match[1], 16)) if match else (1, 0)
        if not first <= last <= LAST_CODEPOINT:
            raise UserError(
                f"{key} = {text!r} is not understood at {part!r}: use {', '.join(NAMES)}, ascending ranges such as "
                "U+0041-005A,U+4E00-4E10, or a UTF-8 text file that holds the characters"
            )
        ranges.append(range(first, last + 1))
    return Charset(_merged(ranges), frozenset(r[0] for r in ranges if len(r) == 1))


def gb2312_hanzi() -> str:
    """The 6,763 hanzi of GB 2312 in its order, by Python's codec; five places after level 1 are empty."""
    codes = (bytes([lead, trail]) for lead in GB2312_LEADS for trail in GB2312_TRAILS)
    return "".join(code.decode("gb2312", errors="ignore") for code in codes)


def _listing(codepoints: Iterable[int]) -> Charset:
    listed = frozenset(codepoints)
    return Charset(_merged([range(c, c + 1) for c in listed]), listed)


def _characters_of(path: Path, key: str) -> set[int]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key} = {str(path)!r} cannot be read as UTF-8 text ({error}): name a text file") from None
    characters = [c for c in text if not c.isspace() and unicodedata.category(c) != "Cc"]
    if set(characters[1::2]) == {","} and "," not in characters[::2]:
        characters = characters[::2]
    if not characters:
        raise UserError(f"{key} = {str(path)!r} holds no character: write those that are wanted into it")
    return set(map(ord, characters))


def _merged(ranges: list[range]) -> tuple[range, ...]:
    """The same numbers in ascending ranges with gaps between them."""
    numbers = sorted(ranges, key=lambda r: r.start)
    tops = [numbers[0].stop]
    for r in numbers[1:]:
        tops.append(max(tops[-1], r.stop))
    # A range begins wherever all that stands before ends earlier.
    starts = [0, *(i for i in range(1, len(numbers)) if numbers[i].start > tops[i - 1]), len(numbers)]
    return tuple(range(numbers[a].start, tops[b - 1]) for a, b in pairwise(starts))
