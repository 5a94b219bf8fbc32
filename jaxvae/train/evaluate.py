"""Evaluation: statistics over a whole source, merged before they are divided."""

from collections.abc import Iterable

import jax
import numpy as np

from jaxvae.data.loader import Loader, assemble
from jaxvae.data.plan import Plan, PlannedBatch, partners
from jaxvae.data.source import Source
from jaxvae.stats import Stats, accumulate
from jaxvae.tasks.task import example_keys
from jaxvae.train.sharding import put_batch
from jaxvae.train.state import EVALUATE


class Evaluator:
    """Runs functions of the task over every example of a source once.

    Random draws are keyed by the example and not by its place in a batch, so a result does not depend on batch
    size, order, padding or devices. Each function is compiled once per capacity and kept.
    """

    def __init__(self, task, source: Source, batch_size: int, rows: int, workers: int, mesh):
        self.task, self.rows, self.workers, self.mesh = task, rows, workers, mesh
        self.plan = Plan(source, batch_size, seed=0, shuffle=False)
        self._evaluate = jax.jit(with_draws(task, task.evaluate))

    def batches(self) -> Iterable[dict[str, jax.Array]]:
        """All batches of the source on the devices, from small to large examples."""
        for _, batch in Loader(self.plan, self.rows, 0, self.plan.steps_per_epoch, self.workers):
            yield put_batch(batch, self.mesh)

    def pairs(self) -> Iterable[tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
        """All batches, each with a batch of the same capacity that holds another example in every row.

        Which ones depends on the source alone. A row without a partner is not valid in the second batch.
        """
        source, draws = self.plan.source, self.plan.source.draw(0, 0)
        partner = partners(source, draws)
        for step, batch in Loader(self.plan, self.rows, 0, self.plan.steps_per_epoch, self.workers):
            planned = self.plan.batch(step)
            others = partner[planned.indices]
            stand_in = np.where(others < 0, planned.indices, others)
            other = assemble(self.plan, planned._replace(indices=stand_in, draws=draws[stand_in]), self.rows)
            other["valid"][: len(others)] = others >= 0
            yield put_batch(batch, self.mesh), put_batch(other, self.mesh)

    def sample_batch(self) -> dict[str, jax.Array]:
        """Examples from all over the source, small and large, for pictures; a small source repeats some."""
        source = self.plan.source
        order = np.concatenate([self.plan.batch(i).indices for i in range(self.plan.steps_per_epoch)])
        indices = order[np.linspace(0, len(order) - 1, self.rows).round().astype(int)]
        planned = PlannedBatch(tuple(source.capacities[-1]), indices, source.draw(0, 0)[indices])
        return put_batch(assemble(self.plan, planned, self.rows), self.mesh)

    def evaluate(self, variables, key, step) -> dict[str, float]:
        """The task's metrics over the whole source."""
        return self.task.summarize(self.statistics(variables, key, step))

    def statistics(self, variables, key, step) -> Stats:
        """What `evaluate` divides: the merged statistics, histograms and vectors included."""
        return accumulate(self._evaluate(variables, batch, key, step) for batch in self.batches())


def with_draws(task, function):
    """(variables, batch, draws, ...) -> (variables, batch, key, ...), draws being keyed by example."""

    def wrapped(variables, batch, key, *args):
        keys = example_keys(jax.random.fold_in(key, EVALUATE), batch["index"])
        return function(variables, batch, task.draws(keys, batch), *args)

    return wrapped
