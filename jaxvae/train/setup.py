"""From a configuration to everything that a loop needs: task, data, mesh, state, run folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvae import tasks
from jaxvae.config import validate_trainer
from jaxvae.data.loader import assemble
from jaxvae.data.plan import Plan
from jaxvae.data.source import Source
from jaxvae.errors import UserError
from jaxvae.nn.barriers import compiler_options
from jaxvae.run import Run
from jaxvae.tasks.task import Task
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.evaluate import Evaluator
from jaxvae.train.length import changes, last_step
from jaxvae.train.lock import RunLock
from jaxvae.train.optim import optimizer_for
from jaxvae.train.sharding import batch_sharding, make_mesh, replicated, state_shardings
from jaxvae.train.state import State, create_state
from jaxvae.train.step import make_train_step


@dataclass
class Setup:
    """What `prepare` made. `rows` is the batch size, padded to devices x micro-batches.

    `lock` keeps other trainings out of the run folder until it is closed or the process ends.
    """

    config: Any
    task: Task
    mesh: jax.sharding.Mesh
    sources: dict[str, Source]
    plan: Plan
    rows: int
    total_steps: int
    evaluator: Evaluator
    run: Run
    lock: RunLock
    checkpoints: Checkpoints
    state: State
    memory: dict[str, Any]
    train_step: Callable
    notes: list[str]


def prepare(config, workdir: str | Path, command: str = "") -> Setup:
    """Builds a new training, or finds the one in `workdir` and restores its newest checkpoint.

    `memory` holds what the host saved with that checkpoint ({} for a new run), `notes` what the user should read.

    Raises:
      UserError: for a configuration, data or a run folder that cannot work, or in which another process trains. The
        folder is then as it was.
    """
    validate_trainer(config)
    lock = RunLock(workdir)
    try:
        return _prepare(config, Run(workdir), lock, command)
    except BaseException:
        lock.close()
        raise


def _prepare(config, run: Run, lock: RunLock, command: str) -> Setup:
    # Everything that a user can get wrong is checked before the run folder is touched.
    task = tasks.build(config)
    mesh = make_mesh(config)
    changed = run.check(config)
    notes: list[str] = []
    sources = task.sources(notes.append)
    batch_size = config.data.batch_size
    rows = _round_up(batch_size, jax.device_count() * config.optim.accum)
    plan = Plan(sources["train"], batch_size, config.seed)
    evaluator = Evaluator(task, sources["val"], batch_size, rows, config.data.workers, mesh)
    total_steps = last_step(config.train.total_steps, config.train.epochs, plan.steps_per_epoch)

    statistics = task.statistics(sources)
    batch = assemble(plan, plan.batch(0), rows)
    optimizer = optimizer_for(task, config, batch, total_steps)

    def create(batch):
        return create_state(task, optimizer, config, statistics, batch)

    # Shapes, then shardings, then weights that are born where they belong.
    shapes = jax.eval_shape(create, batch)
    shardings = state_shardings(mesh, shapes)
    checkpoints = Checkpoints(run.folder / "checkpoints", config.train.keep)
    memory: dict[str, Any] = {}
    if checkpoints.latest_step() is None:
        run.check_without_checkpoint(changed.get("train.save_every", (config.train.save_every,))[0])
        state = jax.jit(create, out_shardings=shardings)(batch)
    else:
        like = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, shardings)
        state, memory = checkpoints.restore(like)
        _check_same_data(memory["fingerprint"], sources["train"].fingerprint, run)
        _check_not_past(total_steps, int(state.step), run)
        notes.append(f"continues from the checkpoint at step {int(state.step)}")
    step = int(state.step)
    notes = [*changes(changed, config, plan.steps_per_epoch, step), *notes]
    lock.keep()
    run.create(config, command, sources, notes)
    run.rewind(step if memory else -1, task.captions)

    train_step = jax.jit(
        make_train_step(task, optimizer, config),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )
    notes.append(_summary(config, shapes, mesh, plan, total_steps, run))
    return Setup(
        config=config,
        task=task,
        mesh=mesh,
        sources=sources,
        plan=plan,
        rows=rows,
        total_steps=total_steps,
        evaluator=evaluator,
        run=run,
        lock=lock,
        checkpoints=checkpoints,
        state=state,
        memory=memory,
        train_step=train_step,
        notes=notes,
    )


def count_parameters(params) -> int:
    """Numbers in a tree of arrays or of their shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def _summary(config, shapes, mesh, plan, total_steps, run) -> str:
    devices = f"{mesh.devices.size} x {jax.devices()[0].device_kind}"
    return (
        f"{config.task}:{config.preset}, {count_parameters(shapes.params):,} parameters, "
        f"{config.precision.compute}, {devices}; {total_steps:,} updates of up to {config.data.batch_size} examples "
        f"({plan.steps_per_epoch:,} per epoch); run folder {run.folder}"
    )


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _check_not_past(total_steps: int, step: int, run: Run) -> None:
    if step > total_steps:
        raise UserError(
            f"{run.folder} has made {step} updates already and config.train.total_steps and epochs allow "
            f"{total_steps}: raise them, or choose another --workdir"
        )


def _check_same_data(saved: str, found: str, run: Run) -> None:
    if saved != found:
        raise UserError(
            f"{run.folder} was trained on other data (fingerprint {saved[:12]} there, {found[:12]} here): "
            "restore the data, or choose another --workdir"
        )
