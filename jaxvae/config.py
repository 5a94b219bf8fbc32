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

    c.init_from = ConfigDict()
    c.init_from.path = ""  # a run folder, or one of its checkpoints/<step>; '' = fresh weights
    c.init_from.weights = "raw"  # raw | name of an average that the run kept
    c.init_from.map = ""  # pattern=>replacement, ... applied to its names, such as ^vae/=>encoder/
    c.init_from.allow = ""  # patterns of names, ours or its, that may be without counterpart

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # adamw | adam (weight_decay as L2) | sgd (b1 = momentum)
    c.optim.lr = 3e-4  # peak learning rate, after warm-up
    c.optim.weight_decay = 0.0
    c.optim.decay_on = "kernels"  # kernels: matrices and convolutions | all: biases, norms and tables too, as PyTorch
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.accum = 1  # micro-batches per update; divides data.batch_size, changes memory and nothing else
    c.optim.freeze = ""  # patterns of parameters that are not trained, comma between them
    c.optim.on_skip = "hold"  # schedule and averages when an update is skipped: hold | advance, as PyTorch's do
    c.optim.clip = ConfigDict()
    c.optim.clip.name = "norm"  # norm: fixed limit | percentile: of the last norms, at most optim.clip.norm
    c.optim.clip.norm = 1.0  # global norm of the gradient; 0 = no limit
    c.optim.clip.percentile = 95.0
    c.optim.clip.window = 1000  # norms from which the percentile is taken, and updates before it counts
    c.optim.schedule = ConfigDict()
    c.optim.schedule.name = "constant"  # constant | cosine | cosine_restarts | exponential | step
    c.optim.schedule.warmup_steps = 0  # linear, before any schedule
    c.optim.schedule.warmup_factor = 0.0  # share of lr at the first update; 0 = 1 / warmup_steps
    c.optim.schedule.steps = 0  # cosine: updates after the warm-up in which it falls; 0 = to the end of the run
    c.optim.schedule.end_factor = 0.0  # cosine: last learning rate as a share of lr
    c.optim.schedule.past_end = "hold"  # cosine beyond its steps: hold | rise again, as PyTorch's
    c.optim.schedule.torch_recursion = False  # cosine after a warm-up by PyTorch's recursion: a little above lr
    c.optim.schedule.decay_rate = 0.5  # exponential, step: factor per decay_steps
    c.optim.schedule.decay_steps = 10_000  # exponential: smoothly over; step: at once; restarts: the first cycle
    c.optim.schedule.restart_factor = 1  # cosine_restarts: each cycle is so many times as long as the one before
    c.optim.ema = ConfigDict()  # rows <name>.{decay, every, start, power}: ema_row
    c.optim.groups = ConfigDict()  # rows <name>.{match, lr_factor, decay_factor, clip, start_step}: group_row

    c.train = ConfigDict()
    c.train.total_steps = 0  # updates; 0 = epochs decide. With both given the earlier end counts
    c.train.epochs = 0  # passes over the training data; 0 = total_steps decide
    c.train.steps_per_dispatch = 1  # updates that the device makes at once; pays for models that take a few ms
    c.train.log_every = 50  # updates per row of metrics.jsonl and line of the console
    c.train.eval_every = 1_000  # updates; the whole validation set; 0 = only at start and end
    c.train.sample_every = 1_000  # updates; pictures; 0 = only at start and end
    c.train.save_every = 1_000  # updates; checkpoints; 0 = only at the end
    c.train.keep = 3  # newest checkpoints kept
    c.train.keep_every = 0  # updates; checkpoints at multiples are kept for good; 0 = none
    c.train.keep_best = 0  # checkpoints kept with the best train.best_metric, beside the newest
    c.train.best_metric = "val/loss"  # mind terms whose weight warms up: the loss rises with it
    c.train.best_mode = "min"  # min | max
    c.train.eval_weights = "raw"  # raw | name of a row of optim.ema: what evaluation, pictures and report use
    c.train.max_skips = 100  # updates in a row that may be not finite before the run stops; 0 = any number
    c.train.replica_check_every = 0  # updates; compares the copies of the state on all devices; 0 = never

    c.monitors = ConfigDict()  # rows by any name; a row without a metric is off
    c.monitors.early_stop = early_stop_row()
    c.monitors.plateau = plateau_row()
    c.monitors.range = range_row()

    c.precision = ConfigDict()
    c.precision.compute = "float32"  # float32 | bfloat16 | float16 products; weights, sums and losses stay float32
    c.precision.products = "default"  # default | highest: float32 products in full precision where devices shorten
    c.precision.loss_scale = ConfigDict()  # float16 alone: the loss is multiplied, so that small gradients survive
    c.precision.loss_scale.init = 2.0**16
    c.precision.loss_scale.growth_factor = 2.0  # after growth_interval finite updates in a row
    c.precision.loss_scale.growth_interval = 2_000
    c.precision.loss_scale.backoff_factor = 0.5  # after an update that is not finite
    c.precision.loss_scale.min = 1.0
    c.precision.loss_scale.max = 2.0**24

    c.parallel = ConfigDict()
    c.parallel.data = 0  # devices over which the batch is split; 0 = all that fsdp leaves
    c.parallel.fsdp = 1  # devices over which parameters are split too
    return c


def ema_row(decay: float, every: int = 1, start: int = 0, power: float = 0.0) -> ConfigDict:
    """An average of the weights: a copy until update `start`, then blended by `decay` every `every` updates.

    `power` above 0 lets the decay grow from 0: it is at most 1 - (1 + updates since start)^-power.
    """
    return ConfigDict(dict(decay=decay, every=every, start=start, power=power))


def group_row(
    match: str, lr_factor: float = 1.0, decay_factor: float = 1.0, clip: float = 0.0, start_step: int = 0
) -> ConfigDict:
    """Parameters whose path holds the regular expression `match`, trained in their own way.

    Args:
      match: searched in paths such as 'decoder/block_0/kernel'.
      lr_factor: times optim.lr.
      decay_factor: times optim.weight_decay.
      clip: limit of the group's own gradient norm; 0 = the group shares optim.clip with all others.
      start_step: first update (1, 2, ...) that trains the group; 0 = from the start.
    """
    return ConfigDict(
        dict(match=match, lr_factor=lr_factor, decay_factor=decay_factor, clip=clip, start_step=start_step)
    )


def early_stop_row(metric: str = "", mode: str = "min", patience: int = 10, min_delta: float = 0.0) -> ConfigDict:
    """Ends the training after `patience` evaluations that do not beat the best by more than `min_delta`."""
    return ConfigDict(dict(kind="early_stop", metric=metric, mode=mode, patience=patience, min_delta=min_delta))


def plateau_row(
    metric: str = "",
    mode: str = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> ConfigDict:
    """Multiplies the learning rate by `factor` after more than `patience` evaluations without progress."""
    return ConfigDict(
        dict(
            kind="plateau",
            metric=metric,
            mode=mode,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=threshold_mode,
            cooldown=cooldown,
            min_lr=min_lr,
            eps=eps,
        )
    )


def range_row(metric: str = "", low: float = -1e30, high: float = 1e30, action: str = "warn") -> ConfigDict:
    """Warns, or stops the training, when the metric leaves [low, high] or is not a number."""
    return ConfigDict(dict(kind="range", metric=metric, low=low, high=high, action=action))


MONITOR_ROWS = {"early_stop": early_stop_row, "plateau": plateau_row, "range": range_row}


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


def from_plain(plain: Mapping) -> ConfigDict:
    """The inverse of `to_plain`: a configuration, locked, with the types that the plain values have.

    Raises:
      UserError: if a key of the trainer, or of one of its rows, is missing or of another type.
    """
    config = ConfigDict(plain)
    try:
        wanted = trainer_config()
        wanted.optim.ema = {name: ema_row(decay=0.5) for name in config.optim.ema}
        wanted.optim.groups = {name: group_row(match="") for name in config.optim.groups}
        wanted.monitors = {name: MONITOR_ROWS[row.kind]() for name, row in config.monitors.items()}
    except (AttributeError, KeyError, TypeError) as error:
        what = str(error.args[0]).strip("'\"")
        raise UserError(f"no configuration of this version of jaxvae: {what} is missing or unknown") from None
    found = flatten(config)
    for key, default in flatten(wanted).items():
        if key not in found:
            raise UserError(f"no configuration of this version of jaxvae: {key} is missing")
        value = found[key]
        if type(value) is not type(default) and not (type(value) is int and type(default) is float):
            raise UserError(f"{key} = {value!r}: must be of the kind of {default!r}")
    return config.lock()


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
    require_positive(c, "data.batch_size", "optim.lr", "optim.eps", "optim.accum", "optim.clip.window")
    require_positive(c, "optim.schedule.decay_steps", "optim.schedule.decay_rate", "optim.schedule.restart_factor")
    require_positive(c, "train.log_every", "train.keep", "train.steps_per_dispatch", "parallel.fsdp", "data.workers")
    require_not_negative(c, "optim.weight_decay", "optim.clip.norm", "optim.schedule.warmup_steps")
    require_not_negative(c, "optim.schedule.end_factor", "optim.schedule.steps", "parallel.data")
    require_not_negative(c, *(f"train.{key}" for key in ("total_steps", "epochs", "eval_every", "sample_every")))
    require_not_negative(c, *(f"train.{key}" for key in ("save_every", "keep_every", "keep_best", "max_skips")))
    require_not_negative(c, "train.replica_check_every")
    require(c, "seed", 0 <= c.seed < 2**32, "must be from 0 to 4294967295")
    for key in ("optim.b1", "optim.b2"):
        require(c, key, 0 <= flatten(c)[key] < 1, "must be in [0, 1)")
    require(c, "optim.clip.percentile", 0 < c.optim.clip.percentile <= 100, "must be above 0, at most 100")
    warmup = c.optim.schedule.warmup_factor
    require(c, "optim.schedule.warmup_factor", 0 <= warmup <= 1, "must be from 0 to 1")
    require_one_of(c, "optim.name", ("adamw", "adam", "sgd"))
    require_one_of(c, "optim.decay_on", ("kernels", "all"))
    require_one_of(c, "optim.on_skip", ("hold", "advance"))
    require_one_of(c, "optim.clip.name", ("norm", "percentile"))
    require_one_of(c, "optim.schedule.name", ("constant", "cosine", "cosine_restarts", "exponential", "step"))
    require_one_of(c, "optim.schedule.past_end", ("hold", "rise"))
    require_one_of(c, "precision.compute", ("float32", "bfloat16", "float16"))
    require_one_of(c, "precision.products", ("default", "highest"))
    require_one_of(c, "train.eval_weights", ("raw", *c.optim.ema))
    require_one_of(c, "train.best_mode", ("min", "max"))
    _validate_rows(c)
    _validate_loss_scale(c)
    require(
        c,
        "optim.accum",
        c.data.batch_size % c.optim.accum == 0,
        f"must divide config.data.batch_size = {c.data.batch_size}",
    )
    if c.train.keep_best:
        every = c.train.eval_every
        what = f"with config.train.keep_best it must be a multiple of config.train.eval_every = {every}"
        require(c, "train.save_every", every > 0 and c.train.save_every % every == 0, what)
    if c.train.keep_every:
        what = f"with config.train.keep_every = {c.train.keep_every} it must divide that, as checkpoints are kept only"
        fits = c.train.save_every > 0 and c.train.keep_every % c.train.save_every == 0
        require(c, "train.save_every", fits, f"{what} where they are made")
    intervals = [c.train[f"{name}_every"] for name in ("log", "eval", "sample", "save", "replica_check")]
    shortest = min(n for n in intervals if n)
    what = f"must be at most the shortest interval of config.train, {shortest}: no block goes beyond one"
    require(c, "train.steps_per_dispatch", c.train.steps_per_dispatch <= shortest, what)
    if not (c.train.total_steps or c.train.epochs):
        raise UserError("config.train.total_steps = 0 and config.train.epochs = 0: one of them must be above 0")


def _validate_rows(c: ConfigDict) -> None:
    for name in c.optim.ema:
        key = f"optim.ema.{name}"
        if name == "raw":
            raise UserError(f"config.{key}: raw means the weights themselves: give the average another name")
        require(c, f"{key}.decay", 0 < c.optim.ema[name].decay < 1, "must be in (0, 1)")
        require_positive(c, f"{key}.every")
        require_not_negative(c, f"{key}.start", f"{key}.power")
    for name in c.optim.groups:
        key = f"optim.groups.{name}"
        if name == "default":
            raise UserError(f"config.{key}: default means what no group matches: give the group another name")
        require_positive(c, f"{key}.lr_factor")
        require_not_negative(c, f"{key}.decay_factor", f"{key}.clip", f"{key}.start_step")
    for name, row in c.monitors.items():
        key = f"monitors.{name}"
        require_one_of(c, f"{key}.kind", MONITOR_ROWS)
        keys = set(MONITOR_ROWS[row.kind]())
        what = f"a row of this kind has the keys {', '.join(sorted(keys))}: add one in the configuration file"
        require(c, f"{key}.kind", set(row) == keys, what)
        if row.metric:
            what = f"a number of updates above 0, as config.{key}.metric is looked at then"
            require(c, "train.eval_every", c.train.eval_every > 0, what)
        if row.kind == "range":
            require(c, f"{key}.low", row.low <= row.high, f"must be at most config.{key}.high = {row.high}")
            require_one_of(c, f"{key}.action", ("warn", "stop"))
            continue
        require_one_of(c, f"{key}.mode", ("min", "max"))
        if row.kind == "early_stop":
            require_positive(c, f"{key}.patience")
            require_not_negative(c, f"{key}.min_delta")
        else:
            require(c, f"{key}.factor", 0 < row.factor < 1, "must be in (0, 1)")
            require_one_of(c, f"{key}.threshold_mode", ("rel", "abs"))
            numbers = ("patience", "threshold", "cooldown", "min_lr", "eps")
            require_not_negative(c, *(f"{key}.{number}" for number in numbers))


def _validate_loss_scale(c: ConfigDict) -> None:
    row, key = c.precision.loss_scale, "precision.loss_scale"
    require_positive(c, f"{key}.growth_interval", f"{key}.min", f"{key}.max")
    require(c, f"{key}.init", row.min <= row.init <= row.max, f"must be from {row.min:g} to {row.max:g}")
    require(c, f"{key}.growth_factor", 1 <= row.growth_factor < float("inf"), "must be at least 1")
    require(c, f"{key}.backoff_factor", 0 < row.backoff_factor <= 1, "must be above 0, at most 1")
