"""Which keys of a configuration a piece of code reads."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import jaxvae
from jaxvae.config import flatten

PACKAGE = Path(jaxvae.__file__).parent
CHECKS = PACKAGE / "config.py"


@contextlib.contextmanager
def reads(config: ConfigDict) -> Iterator[set[str]]:
    """The keys of `config` that are read while this lasts, {'optim.lr', ...}.

    A key that is only checked or copied is not read: what `jaxvae.config` does and the `check` of a task do not count.
    """
    found: set[str] = set()
    names = dict(_nodes(config))
    getitem = ConfigDict.__getitem__

    def recording(self, key):
        value = getitem(self, key)
        # Of 'a.b' ConfigDict takes 'a' and of that 'b', each by a call of its own.
        if id(self) in names and "." not in key and not isinstance(value, ConfigDict) and not _only_checks():
            found.add(names[id(self)] + key)
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigDict, "__getitem__", recording)
        yield found


def unread(config: ConfigDict, found: set[str]) -> set[str]:
    """The keys that are not among those found."""
    return flatten(config).keys() - found


def _nodes(config: ConfigDict, prefix: str = ""):
    yield id(config), prefix
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _nodes(value, f"{prefix}{key}.")


def _only_checks() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        path = Path(code.co_filename)
        if path == CHECKS or (code.co_name == "check" and path.parent == PACKAGE / "tasks"):
            return True
        frame = frame.f_back
    return False
