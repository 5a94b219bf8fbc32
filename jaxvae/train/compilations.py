"""Counts and times what is compiled: a training in which that does not end has shapes that it should not have."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator


def _silent(what: str, seconds: float) -> None:
    del what, seconds


class Compilations:
    """The programs of a training, counted as they are traced, and so compiled or taken from the cache.

    Attributes:
      count: programs so far: one per function and capacity of its batches, or something is wrong.
      seconds: spent on them so far.
      tell: gets what was compiled and how many seconds it took, each time.
    """

    def __init__(self):
        self.count, self.seconds = 0, 0.0
        self.tell: Callable[[str, float], None] = _silent

    def counted(self, function: Callable) -> Callable:
        """`function`, to be jitted, which counts when it is traced."""

        @functools.wraps(function)
        def traced(*args):
            self.count += 1
            return function(*args)

        return traced

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Times what is compiled inside, if anything is, and tells of it as `what`."""
        before, since = self.count, time.perf_counter()
        yield
        if self.count > before:
            seconds = time.perf_counter() - since
            self.seconds += seconds
            self.tell(what, seconds)
