"""Configurations: shared keys, presets as differences, and checks that end in one line.

A configuration is an `ml_collections.ConfigDict`, locked and JSON-able. Off is `0`, `''` or `'none'`, never
None, and there are no lists: neither can be overridden from a shell. Rows of something (EMAs) are named
sub-dictionaries. A file `configs/<system>.py` starts from `trainer_config()`, adds `model`, `loss` and `data`
and describes its presets as a table of differences.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxvae.errors import UserError, choose


class Preset(NamedTuple):
    """One line for the listing, and what differs from the base: {'model.embed': 640, ...}."""

    about: str
    changes: Mapping[str, Any]


def trainer_config() -> ConfigDict:
    """The keys that every system shares, with their defaults; a system's file changes what it must."""
    c = ConfigDict()
    c.task = ""  # name of the system in jaxvae.tasks
    c.preset = ""
    c.seed = 42  # initial weights, order of examples, all noise; not the split (data.split_seed)

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # adamw | adam (weight_decay as L2) | sgd (b1 = momentum)
    c.optim.lr = 3e-4  # peak learning rate, after warm-up
    c.optim.weight_decay = 0.0
    c.optim.decay_on = "kernels"  # kernels: matrices and convolutions | all: biases, norms and tables too, as PyTorch
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.accum = 1  # micro-batches per update; divides data.batch_size, changes memory and nothing else
    c.optim.clip = ConfigDict()
    c.optim.clip.norm = 1.0  # global norm of the gradient; 0 = off
    c.optim.schedule = ConfigDict()
    c.optim.schedule.name = "constant"  # constant | cosine | exponential | step
    c.optim.schedule.warmup_steps = 0  # linear, from 0, before any schedule
    c.optim.schedule.end_factor = 0.0  # cosine: last learning rate as a share of lr
    c.optim.schedule.decay_rate = 0.5  # exponential, step: factor per decay_steps
    c.optim.schedule.decay_steps = 10_000  # exponential: smoothly over; step: at once every so many updates
    c.optim.ema = ConfigDict()  # rows <name>.{decay, every, start}

    c.train = ConfigDict()
    c.train.total_steps = 0  # updates; 0 = epochs decide. With both given the earlier end counts
    c.train.epochs = 0  # passes over the training data; 0 = total_steps decide
    c.train.log_every = 50  # updates per row of metrics.jsonl and line of the console
    c.train.eval_every = 1_000  # updates; the whole validation set; 0 = only at start and end
    c.train.sample_every = 1_000  # updates; pictures; 0 = only at start and end
    c.train.save_every = 1_000  # updates; checkpoints; 0 = only at the end
    c.train.keep = 3  # newest checkpoints kept
    c.train.eval_weights = "raw"  # raw | name of a row of optim.ema: what evaluation, pictures and report use

    c.precision = ConfigDict()
    c.precision.compute = "float32"  # float32 | bfloat16 products; weights, sums and losses stay float32

    c.parallel = ConfigDict()
    c.parallel.data = 0  # devices over which the batch is split; 0 = all that fsdp leaves
    c.parallel.fsdp = 1  # devices over which parameters are split too
    return c


def ema_row(decay: float, every: int = 1, start: int = 0) -> ConfigDict:
    """An average of the weights: `decay` per update of the average, every `every` updates, from `start` on."""
    return ConfigDict(dict(decay=decay, every=every, start=start))


def apply_preset(config: ConfigDict, presets: Mapping[str, Preset], name: str) -> ConfigDict:
    """The base with one preset's differences, locked.

    Raises:
      UserError: if there is no such preset; the message lists those that exist.
    """
    choose("preset", name, presets)
    config.preset = name
    config.lock()
    config.update_from_flattened_dict(presets[name].changes)
    return config


def flatten(config: ConfigDict | Mapping, prefix: str = "") -> dict[str, Any]:
    """{'optim.lr': 3e-4, ...}: every leaf by its dotted key, in order."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def to_plain(config: ConfigDict | Mapping) -> dict[str, Any]:
    """Nested plain dictionaries as JSON holds them (tuples become lists)."""
    return {
        key: to_plain(value)
        if isinstance(value, ConfigDict | Mapping)
        else (list(value) if isinstance(value, tuple) else value)
        for key, value in config.items()
    }


def difference(old: Mapping, new: Mapping) -> dict[str, tuple[Any, Any]]:
    """{dotted key: (old value, new value)} where two plain configurations differ; a missing key shows as None."""
    a, b = flatten(old), flatten(new)
    return {key: (a.get(key), b.get(key)) for key in a | b if a.get(key) != b.get(key)}


def require(config: ConfigDict, key: str, ok: bool, what_works: str) -> None:
    """Raises `UserError` naming `key`, its value and what would work, unless `ok`."""
    if not ok:
        raise UserError(f"config.{key} = {flatten(config)[key]!r}: {what_works}")


def require_one_of(config: ConfigDict, key: str, choices: Iterable[str]) -> None:
    """Raises `UserError` unless the value of `key` is one of `choices`."""
    choose(f"config.{key}", flatten(config)[key], choices)


def require_positive(config: ConfigDict, *keys: str) -> None:
    """Raises `UserError` unless the numbers under `keys` are finite and above 0."""
    for key in keys:
        value = flatten(config)[key]
        kind = "whole" if isinstance(value, int) else "finite"
        require(config, key, 0 < value < float("inf"), f"must be a {kind} number above 0")


def require_not_negative(config: ConfigDict, *keys: str) -> None:
    """Raises `UserError` unless the numbers under `keys` are finite and at least 0."""
    for key in keys:
        require(config, key, 0 <= flatten(config)[key] < float("inf"), "must be 0 (off) or a finite number above")


def validate_trainer(config: ConfigDict) -> None:
    """Checks the keys that every system shares, before anything is built or written."""
    c = config
    require_positive(c, "data.batch_size", "optim.lr", "optim.eps", "optim.accum", "train.log_every")
    require_positive(c, "train.keep", "parallel.fsdp", "optim.schedule.decay_steps", "optim.schedule.decay_rate")
    require_not_negative(c, "optim.weight_decay", "optim.clip.norm", "optim.schedule.warmup_steps")
    require_not_negative(c, "train.total_steps", "train.epochs", "train.eval_every", "train.sample_every")
    require(c, "seed", 0 <= c.seed < 2**32, "must be from 0 to 4294967295")
    require_not_negative(c, "train.save_every", "parallel.data", "optim.schedule.end_factor")
    for key in ("optim.b1", "optim.b2"):
        require(c, key, 0 <= flatten(c)[key] < 1, "must be in [0, 1)")
    require_one_of(c, "optim.name", ("adamw", "adam", "sgd"))
    require_one_of(c, "optim.decay_on", ("kernels", "all"))
    require_one_of(c, "optim.schedule.name", ("constant", "cosine", "exponential", "step"))
    require_one_of(c, "precision.compute", ("float32", "bfloat16"))
    require_one_of(c, "train.eval_weights", ("raw", *c.optim.ema))
    for row in c.optim.ema:
        require(c, f"optim.ema.{row}.decay", 0 < c.optim.ema[row].decay < 1, "must be in (0, 1)")
        require_positive(c, f"optim.ema.{row}.every")
        require_not_negative(c, f"optim.ema.{row}.start")
    require(
        c,
        "optim.accum",
        c.data.batch_size % c.optim.accum == 0,
        f"must divide config.data.batch_size = {c.data.batch_size}",
    )
    if not (c.train.total_steps or c.train.epochs):
        raise UserError("config.train.total_steps = 0 and config.train.epochs = 0: one of them must be above 0")
