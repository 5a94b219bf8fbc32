"""What a reader left out: counted and named, never silently dropped."""

from dataclasses import dataclass, field

# Names shown per line of the summary; `names`, and with it a run's data.json, has all of them.
NAMES_SHOWN = 5


@dataclass
class Skipped:
    """Names by reason; a reason starts with its noun in the singular: 'glyph without contours'."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self.names.values()))

    def summary(self) -> list[str]:
        """A line per reason: '3 glyphs longer than 256 tokens (DejaVuSans/uni0BCC U+0BCC, ...)'."""
        return [_line(reason, names) for reason, names in self.names.items()]


def _line(reason: str, names: list[str]) -> str:
    noun, rest = reason.split(" ", 1)
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} {rest} ({shown})"
