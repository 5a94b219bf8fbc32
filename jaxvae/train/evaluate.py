"""Evaluation: statistics over a whole source, merged before they are divided."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvae.data.loader import Loader, assemble, single_steps
from jaxvae.data.plan import Plan, PlannedBatch, partners
from jaxvae.data.source import Source
from jaxvae.stats import Stats, accumulate
from jaxvae.tasks.task import Task, example_keys
from jaxvae.train.compilations import Compilations
from jaxvae.train.precision import products
from jaxvae.train.sharding import batch_sharding, local_rows, put, replicated
from jaxvae.train.state import EVALUATE


class Evaluator:
    """Runs functions of the task over every example of a source once.

    Random draws are keyed by the example and not by its place in a batch, so a result does not depend on batch
    size, order, padding or devices. `evaluate` is compiled once per capacity and kept.

    Args:
      rows: examples of a padded batch.
      workers: threads that prepare batches.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        batch_size: int,
        rows: int,
        workers: int,
        mesh: Mesh,
        config,
        compilations: Compilations,
    ):
        self.task, self.rows, self.workers, self.compilations = task, rows, workers, compilations
        self.sharding, self.part, self.everywhere = batch_sharding(mesh), local_rows(mesh, rows), replicated(mesh)
        self.plan = Plan(source, batch_size, seed=0, shuffle=False)
        self._evaluate = self.jit(with_draws(task, task.evaluate, config))

    def jit(self, function: Callable) -> Callable:
        """`function` jitted and counted, its results whole on every device."""
        return jax.jit(self.compilations.counted(function), out_shardings=self.everywhere)

    def batches(self) -> Iterable[tuple[tuple[int, ...], dict[str, jax.Array]]]:
        """(capacity, batch) over the source, on the devices, from small to large examples."""
        for block, batch in self._loader():
            yield self.plan.batch(block.start).capacity, put(batch, self.sharding)

    def sum_pairs(self, what: str, function: Callable, *args) -> Any:
        """The sum of function(*args, batch, other) over the source.

        Args:
          what: the function's name in the line that tells of its compilation.
          function: to be jitted; gives statistics of a batch and one of the same capacity that holds another example
            in every row. Which ones depends on the source alone; a row without a partner is not valid in the second.
        """
        jitted = self.jit(function)
        return self._sum(what, ((capacity, jitted, (*args, *pair)) for capacity, *pair in self.pairs()))

    def pairs(self) -> Iterable[tuple[tuple[int, ...], dict[str, jax.Array], dict[str, jax.Array]]]:
        """(capacity, batch, batch of other examples) as `sum_pairs` hands them on, from small to large examples."""
        source, draws = self.plan.source, self.plan.source.draw(0, 0)
        partner = partners(source, draws)
        for block, batch in self._loader():
            planned = self.plan.batch(block.start)
            others = partner[planned.indices]
            stand_in = np.where(others < 0, planned.indices, others)
            other = assemble(self.plan, planned._replace(indices=stand_in, draws=draws[stand_in]), self.rows, self.part)
            alone = np.zeros(self.rows, bool)
            alone[: len(others)] = others < 0
            other["valid"] &= ~alone[self.part]
            yield planned.capacity, put(batch, self.sharding), put(other, self.sharding)

    def sample_batch(self) -> dict[str, jax.Array]:
        """Examples from all over the source, small and large, for pictures; a small source repeats some."""
        source = self.plan.source
        order = np.concatenate([self.plan.batch(i).indices for i in range(self.plan.steps_per_epoch)])
        indices = order[np.linspace(0, len(order) - 1, self.rows).round().astype(int)]
        planned = PlannedBatch(tuple(source.capacities[-1]), indices, source.draw(0, 0)[indices])
        return put(assemble(self.plan, planned, self.rows, self.part), self.sharding)

    def evaluate(self, variables, key, step) -> dict[str, float]:
        """The task's metrics over the whole source."""
        return self.task.summarize(self.statistics(variables, key, step))

    def _loader(self) -> Loader:
        return Loader(self.plan, self.rows, single_steps(0, self.plan.steps_per_epoch), self.workers, self.part)

    def statistics(self, variables, key, step) -> Stats:
        """What `evaluate` divides: the merged statistics, histograms and vectors included."""
        calls = ((capacity, self._evaluate, (variables, batch, key, step)) for capacity, batch in self.batches())
        return self._sum("the evaluation", calls)

    def _sum(self, what: str, calls: Iterable[tuple[tuple[int, ...], Callable, tuple]]) -> Any:
        def results():
            for capacity, function, args in calls:
                with self.compilations.of(f"{what} for examples of up to {capacity}"):
                    result = function(*args)
                yield result

        return accumulate(results())


def with_draws(task, function, config):
    """(variables, batch, draws, ...) -> (variables, batch, key, ...), draws being keyed by example.

    Products are computed as `config.precision.products` says.
    """

    def wrapped(variables, batch, key, *args):
        keys = example_keys(jax.random.fold_in(key, EVALUATE), batch["index"])
        with products(config):
            return function(variables, batch, task.draws(keys, batch), *args)

    return wrapped
