"""From a configuration and a run folder to a training that can go on: weights, checkpoints, step, logs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxvae.config import validate_trainer
from jaxvae.errors import UserError
from jaxvae.run import Run, read_rows
from jaxvae.train.build import Parts, build, count_parameters
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.dispatch import Dispatch
from jaxvae.train.distributed import check_alike, connect, is_first, together
from jaxvae.train.evaluate import Evaluator
from jaxvae.train.init_from import init_from
from jaxvae.train.length import changes
from jaxvae.train.lock import RunLock
from jaxvae.train.state import State


@dataclass
class Setup:
    """What `prepare` made.

    Attributes:
      parts: what depends on configuration and data alone.
      lock: keeps other trainings out of the run folder until it is closed or the process ends.
      state: the weights and all that goes with them; the loop replaces it.
      memory: what the host saved with the checkpoint from which the run goes on; {} for a new run.
      notes: what the user should read.
    """

    parts: Parts
    evaluator: Evaluator
    run: Run
    lock: RunLock
    checkpoints: Checkpoints
    state: State
    memory: dict[str, Any]
    dispatch: Dispatch
    notes: list[str]


def prepare(config, workdir: str | Path, command: str = "") -> Setup:
    """Builds a new training, or finds the one in `workdir` and restores its newest sound checkpoint.

    Weights come from the run's own checkpoint, or else from `init_from.path`, or else they are fresh.

    Raises:
      UserError: for a configuration, data or a run folder that cannot work, or in which another process trains. The
        folder is then as it was.
    """
    lock = None
    try:
        with together():
            validate_trainer(config)
            lock = RunLock(workdir, enabled=is_first())
        return _prepare(config, Run(workdir), lock, command)
    except BaseException:
        if lock:
            lock.close()
        raise


def _prepare(config, run: Run, lock: RunLock, command: str) -> Setup:
    # Everything that a user can get wrong is checked before the run folder is touched.
    notes: list[str] = []
    train = config.train
    with together():
        changed = run.check(config)
        parts = build(config, notes.append)
        checkpoints = Checkpoints(
            run.folder / "checkpoints",
            train.keep,
            train.keep_best,
            train.best_metric,
            train.best_mode,
            train.keep_every,
        )
        begins = not checkpoints.steps()
        if begins:
            run.check_without_checkpoint(changed.get("train.save_every", (train.save_every,))[0])
            if lost := len(read_rows(run.metrics_path)):
                notes.append(f"begins anew: there is no checkpoint yet, and the {lost} rows of the log are removed")
    fingerprints = parts.fingerprints()
    check_alike({"configurations": config.to_json()} | {f"data ({split})": f for split, f in fingerprints.items()})
    connect(parts.mesh)
    memory: dict[str, Any] = {}
    if begins:
        state = parts.create()
        if config.init_from.path:
            state, line = init_from(state, config)
            notes.append(line)
    else:
        state, memory, passed_over = checkpoints.restore(parts.like)
        run.check_config(memory["config"], config, f"{checkpoints.folder / str(int(state.step))} was made")
        _check_same_data(memory["fingerprints"], fingerprints, run)
        _check_not_past(parts.total_steps, int(state.step), run)
        notes += [*passed_over, f"continues from the checkpoint at step {int(state.step)}"]
    step = int(state.step)
    notes = [*changes(changed, config, parts.plan.steps_per_epoch, step), *notes]
    with together():
        if is_first():
            lock.keep()
            run.create(config, command, parts.sources, notes)
            run.rewind(-1 if begins else step, parts.task.captions)
    checkpoints.set_aside(step)
    notes.append(_summary(parts, run))
    return Setup(
        parts=parts,
        evaluator=parts.evaluator("val"),
        run=run,
        lock=lock,
        checkpoints=checkpoints,
        state=state,
        memory=memory,
        dispatch=parts.dispatch(),
        notes=notes,
    )


def _summary(parts: Parts, run: Run) -> str:
    config, devices = parts.config, f"{parts.mesh.devices.size} x {jax.devices()[0].device_kind}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    frozen = count_parameters(parts.like.frozen)
    also = f" and {frozen:,} frozen" if frozen else ""
    return (
        f"{config.task}:{config.preset}, {count_parameters(parts.like.params):,} parameters{also}, "
        f"{config.precision.compute}, {devices}; {parts.total_steps:,} updates of up to {config.data.batch_size} "
        f"examples ({parts.plan.steps_per_epoch:,} per epoch); run folder {run.folder}"
    )


def _check_not_past(total_steps: int, step: int, run: Run) -> None:
    if step > total_steps:
        raise UserError(
            f"{run.folder} has made {step} updates already and config.train.total_steps and epochs allow "
            f"{total_steps}: raise them, or choose another --workdir"
        )


def _check_same_data(saved: dict[str, str], found: dict[str, str], run: Run) -> None:
    """Of validation too: what is best, and what a monitor remembers, is of one set of examples."""
    for split, fingerprint in found.items():
        if saved[split] != fingerprint:
            raise UserError(
                f"{run.folder} was trained on other data ({split}: fingerprint {saved[split][:12]} there, "
                f"{fingerprint[:12]} here): restore the data, or choose another --workdir"
            )
