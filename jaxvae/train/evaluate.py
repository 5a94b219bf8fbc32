"""Evaluation: statistics over a whole source, merged before they are divided."""

from collections.abc import Iterable

import jax
import numpy as np

from jaxvae.data.loader import Loader, assemble, single_steps
from jaxvae.data.plan import Plan, PlannedBatch, partners
from jaxvae.data.source import Source
from jaxvae.stats import Stats, accumulate
from jaxvae.tasks.task import example_keys
from jaxvae.train.precision import products
from jaxvae.train.sharding import batch_sharding, local_rows, put, replicated
from jaxvae.train.state import EVALUATE


class Evaluator:
    """Runs functions of the task over every example of a source once.

    Random draws are keyed by the example and not by its place in a batch, so a result does not depend on batch
    size, order, padding or devices. Each function is compiled once per capacity and kept.
    """

    def __init__(self, task, source: Source, batch_size: int, rows: int, workers: int, mesh, config):
        self.task, self.rows, self.workers = task, rows, workers
        self.sharding, self.part = batch_sharding(mesh), local_rows(mesh, rows)
        self.plan = Plan(source, batch_size, seed=0, shuffle=False)
        self._evaluate = jax.jit(with_draws(task, task.evaluate, config), out_shardings=replicated(mesh))

    def batches(self) -> Iterable[dict[str, jax.Array]]:
        """All batches of the source on the devices, from small to large examples."""
        for _, batch in self._loader():
            yield put(batch, self.sharding)

    def pairs(self) -> Iterable[tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
        """All batches, each with a batch of the same capacity that holds another example in every row.

        Which ones depends on the source alone. A row without a partner is not valid in the second batch.
        """
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
            yield put(batch, self.sharding), put(other, self.sharding)

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
        return accumulate(self._evaluate(variables, batch, key, step) for batch in self.batches())


def with_draws(task, function, config):
    """(variables, batch, draws, ...) -> (variables, batch, key, ...), draws being keyed by example.

    Products are computed as `config.precision.products` says.
    """

    def wrapped(variables, batch, key, *args):
        keys = example_keys(jax.random.fold_in(key, EVALUATE), batch["index"])
        with products(config):
            return function(variables, batch, task.draws(keys, batch), *args)

    return wrapped
