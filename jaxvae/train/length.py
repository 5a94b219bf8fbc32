"""How many updates a run makes, and what it means to change that, or anything else, on the way."""

from collections.abc import Mapping
from typing import Any


def last_step(total_steps: int, epochs: int, steps_per_epoch: int) -> int:
    """The earlier of `train.total_steps` and `train.epochs`, of those that are given (not 0)."""
    return min(end for end in (total_steps, epochs * steps_per_epoch) if end)


def changes(changed: Mapping[str, tuple[Any, Any]], config, steps_per_epoch: int, step: int) -> list[str]:
    """A line for every key of {key: (old, new)}, for a run that goes on with `config` from the checkpoint at `step`."""
    ends = {key: config.train[key] for key in ("total_steps", "epochs")}
    old_ends = {key: changed.get(f"train.{key}", (value,))[0] for key, value in ends.items()}
    new, old = (last_step(**which, steps_per_epoch=steps_per_epoch) for which in (ends, old_ends))
    consequence = ""
    # Before its first update and after its last a run has nothing to do with the schedule that it had.
    falls_to_the_end = config.optim.schedule.name == "cosine" and not config.optim.schedule.steps
    if falls_to_the_end and 0 < step < new and new != old:
        consequence = (
            f"; the cosine schedule now falls until step {new} instead of {old}, so from step {step} on the learning "
            f"rate is different, and the run will not equal one that was given {new} steps at its start"
        )
    return [
        f"changed since the last start: {key}: {before!r} -> {after!r}"
        + (consequence if key in ("train.total_steps", "train.epochs") else "")
        for key, (before, after) in changed.items()
    ]
