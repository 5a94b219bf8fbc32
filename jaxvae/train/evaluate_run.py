"""A run read back: its task, its data and the weights of a checkpoint, and its metrics over a whole set.

Nothing here writes into the run folder, so a run can be read while it trains.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxvae.data.source import Source
from jaxvae.errors import UserError, choose
from jaxvae.run import Run
from jaxvae.train.build import Parts, build
from jaxvae.train.checkpoint import Checkpoints, Damaged, find_checkpoint
from jaxvae.train.state import State


class OpenRun(NamedTuple):
    """What `open_run` read.

    Attributes:
      run: the folder.
      parts: task, data and configuration, for the devices at hand.
      weights: 'raw' or the name of the average.
      step: of the checkpoint.
      variables: what the methods of the task take.
      key: root of all random numbers of the run.
    """

    run: Run
    parts: Parts
    weights: str
    step: int
    variables: dict[str, Any]
    key: jax.Array

    def source(self, split: str) -> Source:
        """The examples of a split.

        Raises:
          UserError: if there is no such split, or it holds other data than in the training.
        """
        choose("--split", split, self.parts.sources)
        _check_same_data(self.run, split, self.run.fingerprint(split), self.parts)
        return self.parts.sources[split]

    def evaluate(self, split: str = "val") -> dict[str, float]:
        """The task's metrics over all examples of a split, as a training would log them.

        Raises:
          UserError: if there is no such split, or it holds other data than in the training.
        """
        self.source(split)
        return self.parts.evaluator(split).evaluate(self.variables, self.key, self.step)


def open_run(
    path: str | Path, weights: str = "", step: int | None = None, report: Callable[[str], None] = print
) -> OpenRun:
    """Reads a run from its configuration and a checkpoint, onto the devices at hand.

    Args:
      path: the run folder, or one of its checkpoints/<step>.
      weights: 'raw' or the name of an average; '' = those of `train.eval_weights`.
      step: of the checkpoint; None = that of `path`, or else the newest sound one.
      report: gets lines about the data, and about damaged checkpoints that were passed over.

    Raises:
      UserError: if there is no run or no such checkpoint, or the data are not those of the training.
    """
    run, step = locate(Path(path).expanduser(), step)
    config = run.config()
    weights = weights or config.train.eval_weights
    choose("--weights", weights, ("raw", *config.optim.ema))
    # The devices of the training may not be here; what they compute does not depend on their number.
    config.parallel.data, config.parallel.fsdp = 0, math.gcd(config.parallel.fsdp, jax.device_count())
    checkpoints, _ = find_checkpoint("RUN", str(run.folder if step is None else run.checkpoint(step)))
    parts = build(config, report)
    averages = {name: shapes for name, shapes in parts.like.ema.items() if name == weights}
    like = parts.like.replace(opt_state=(), ema=averages, lr_scale={}, loss_scale={})
    state, memory = _restore(checkpoints, step, like, report)
    _check_same_data(run, "train", memory["fingerprints"]["train"], parts)
    return OpenRun(run, parts, weights, int(state.step), parts.variables(state, weights), state.key)


def evaluation_path(opened: OpenRun, split: str) -> Path:
    """evaluation-<split>-<weights>-<step>.json in the run folder."""
    return opened.run.folder / f"evaluation-{split}-{opened.weights}-{opened.step}.json"


def describe_evaluation(opened: OpenRun, split: str, metrics: dict[str, float]) -> dict[str, Any]:
    """What an evaluation is of, and its metrics, as JSON holds them (null for what is not finite)."""
    config, source = opened.parts.config, opened.parts.sources[split]
    return {
        "task": config.task,
        "preset": config.preset,
        "step": opened.step,
        "split": split,
        "weights": opened.weights,
        "examples": len(source),
        "fingerprint": source.fingerprint,
        "devices": [device.device_kind for device in jax.devices()],
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
    }


def locate(path: Path, step: int | None) -> tuple[Run, int | None]:
    """The run and the step that a path and a number mean together.

    Raises:
      UserError: if both name a step, and not the same.
    """
    if not (path.name.isdecimal() and path.parent.name == "checkpoints"):
        return Run(path), step
    if step not in (None, int(path.name)):
        raise UserError(f"RUN = {str(path)!r} and --step = {step}: give one of them")
    return Run(path.parents[1]), int(path.name)


def _restore(
    checkpoints: Checkpoints, step: int | None, like: State, report: Callable[[str], None]
) -> tuple[State, dict[str, Any]]:
    """The checkpoint at `step`, or the newest sound one."""
    damaged: dict[int, Damaged] = {}
    while True:
        # A training may have saved checkpoints since we looked, and removed older ones, even while we read them.
        checkpoints.manager.reload()
        left = [s for s in checkpoints.steps() if s not in damaged and step in (None, s)]
        if not left:
            what = "; ".join(f"{checkpoints.folder / str(s)} is damaged ({why})" for s, why in damaged.items())
            raise UserError(f"no sound checkpoint: {what or 'it has been removed'}")
        try:
            found = checkpoints.restore_at(left[-1], like, whole=False)
        except Damaged as error:
            if (checkpoints.folder / str(left[-1])).exists():
                damaged[left[-1]] = error
            continue
        for s, why in damaged.items():
            if s > left[-1]:  # others have been removed under our hands
                report(f"checkpoint {checkpoints.folder / str(s)} is damaged ({why}): passed over")
        return found


def _check_same_data(run: Run, split: str, saved: str, parts: Parts) -> None:
    found = parts.sources[split].fingerprint
    if saved != found:
        raise UserError(
            f"config.data gives other examples than {run.folder} has seen ({split}: fingerprint {saved[:12]} there, "
            f"{found[:12]} here): restore the data"
        )
