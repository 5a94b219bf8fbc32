"""From a configuration to what training and evaluation share: task, data, devices, shape of the state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxvae import tasks
from jaxvae.config import require, validate_trainer
from jaxvae.data.loader import assemble
from jaxvae.data.plan import Plan
from jaxvae.data.source import Source
from jaxvae.nn.barriers import compiler_options
from jaxvae.tasks.task import Task
from jaxvae.train.compilations import Compilations
from jaxvae.train.dispatch import Dispatch
from jaxvae.train.evaluate import Evaluator
from jaxvae.train.length import last_step
from jaxvae.train.optim import Optimizer, optimizer_for
from jaxvae.train.sharding import make_mesh, state_shardings, whole
from jaxvae.train.state import State, create_state
from jaxvae.train.step import make_train_step


@dataclass
class Parts:
    """What `build` made; no weights yet.

    Attributes:
      rows: the batch size, padded to devices x micro-batches.
      shardings: of a state.
      like: a state of shapes with shardings: what a checkpoint has to fit.
      create: makes a fresh state, born where it belongs.
      compilations: of all that is made here.
    """

    config: Any
    task: Task
    mesh: jax.sharding.Mesh
    sources: dict[str, Source]
    plan: Plan
    rows: int
    total_steps: int
    optimizer: Optimizer
    shardings: State
    like: State
    create: Callable[[], State]
    compilations: Compilations

    def dispatch(self) -> Dispatch:
        """The updates, to be compiled."""
        step = make_train_step(self.task, self.optimizer, self.config, lambda tree: whole(tree, self.mesh))
        return Dispatch(step, self.mesh, self.shardings, compiler_options(), self.compilations)

    def fingerprints(self) -> dict[str, str]:
        """{split: digest of its data}."""
        return {split: source.fingerprint for split, source in self.sources.items()}

    def variables(self, state: State, weights: str) -> dict[str, Any]:
        """`state.variables(weights)` as they meet a batch: whole on every device."""
        return whole(state.variables(weights), self.mesh)

    def evaluator(self, split: str) -> Evaluator:
        """An evaluator of one of the sources."""
        c = self.config
        batch_size = min(self.rows, c.data.batch_size)
        return Evaluator(
            self.task, self.sources[split], batch_size, self.rows, c.data.workers, self.mesh, c, self.compilations
        )


def build(config, report: Callable[[str], None]) -> Parts:
    """Checks the configuration, reads the data and works out shapes; touches no run folder.

    Args:
      report: gets lines about what was read and what was left out.

    Raises:
      UserError: for a configuration or data that cannot work.
    """
    validate_trainer(config)
    task = tasks.build(config)
    _check_task_allows(task, config)
    mesh = make_mesh(config)
    sources = task.sources(report)
    # A batch larger than the data would be padding for the most part.
    batch_size = min(config.data.batch_size, len(sources["train"]))
    rows = _round_up(batch_size, jax.device_count() * config.optim.accum)
    plan = Plan(sources["train"], batch_size, config.seed, run_length=config.train.steps_per_dispatch)
    total_steps = last_step(config.train.total_steps, config.train.epochs, plan.steps_per_epoch)
    statistics = task.statistics(sources)
    batch = assemble(plan, plan.batch(0), rows)
    optimizer = optimizer_for(task, config, batch, total_steps)

    def create(batch):
        return create_state(task, optimizer, config, statistics, batch)

    # Shapes, then shardings, then weights that are born where they belong.
    shapes = jax.eval_shape(create, batch)
    shardings = state_shardings(mesh, shapes)
    return Parts(
        config=config,
        task=task,
        mesh=mesh,
        sources=sources,
        plan=plan,
        rows=rows,
        total_steps=total_steps,
        optimizer=optimizer,
        shardings=shardings,
        like=jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, shardings),
        create=lambda: jax.jit(create, out_shardings=shardings)(batch),
        compilations=Compilations(),
    )


def count_parameters(params) -> int:
    """Numbers in a tree of arrays or of their shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def _check_task_allows(task: Task, config) -> None:
    if config.optim.accum > 1:
        require(config, "optim.accum", not task.batch_coupled, f"must be 1 for this task: {task.batch_coupled}")
    if config.precision.compute == "float16":
        what = f"float32 or bfloat16 for this task: {task.float16_unsafe}"
        require(config, "precision.compute", not task.float16_unsafe, what)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
