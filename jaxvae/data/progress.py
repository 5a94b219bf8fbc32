"""Progress of work on many items: a bar in a terminal, nothing elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import track

T = TypeVar("T")


def with_bar(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items one after the other; in a terminal a bar named `what` shows how many of `total` are done."""
    return iter(track(items, what, total=total, transient=True, disable=not sys.stdout.isatty()))
