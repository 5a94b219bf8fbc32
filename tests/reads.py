"""Which keys of a configuration a piece of code reads, and which it need not."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import jaxvae
from jaxvae.config import flatten

PACKAGE = Path(jaxvae.__file__).parent
CHECKS = PACKAGE / "config.py"

# Keys that another one switches off: {pattern of keys: (the other, its values under which they are read)}; no values:
# any that is not off.
NEEDS = {
    r"init_from\.(weights|map|allow)": ("init_from.path", ()),
    r"monitors\.(\w+)\.\w+": (r"monitors.\1.metric", ()),
    r"optim\.clip\.(percentile|window)": ("optim.clip.name", ("percentile",)),
    r"optim\.groups\.(\w+)\.\w+": (r"optim.groups.\1.match", ()),
    r"optim\.schedule\.decay_rate": ("optim.schedule.name", ("exponential", "step")),
    r"optim\.schedule\.decay_steps": ("optim.schedule.name", ("exponential", "step", "cosine_restarts")),
    r"optim\.schedule\.end_factor": ("optim.schedule.name", ("cosine", "cosine_restarts")),
    r"optim\.schedule\.past_end": ("optim.schedule.name", ("cosine",)),
    r"optim\.schedule\.restart_factor": ("optim.schedule.name", ("cosine_restarts",)),
    r"optim\.schedule\.warmup_factor": ("optim.schedule.warmup_steps", ()),
    r"precision\.loss_scale\.\w+": ("precision.compute", ("float16",)),
    r"train\.best_metric": ("train.keep_best", ()),
}
# The same for keys of tasks.
NEEDS_OF_TASKS = {r"loss\.image_dropout": ("model.decoder_image", ("dropout",))}


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


def dead(config: ConfigDict, found: set[str]) -> set[str]:
    """The keys that are not among those found, although no other key switches them off."""
    return {key for key in flatten(config).keys() - found if not _off(config, key)}


def _off(config: ConfigDict, key: str) -> bool:
    for pattern, (other, values) in (NEEDS | NEEDS_OF_TASKS).items():
        if match := re.fullmatch(pattern, key):
            value = config[match.expand(other)]
            return value not in values if values else not value
    return False


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
