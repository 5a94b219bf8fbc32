"""What is sent to the devices at once: one update, or several in a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxvae.stats import Stats
from jaxvae.train.sharding import batch_sharding, block_sharding, put, replicated
from jaxvae.train.state import State


class Sent(NamedTuple):
    """The state after a block of updates, their summed statistics, and the most skipped updates in a row within it."""

    state: State
    stats: Stats
    skips: jax.Array


class Dispatch:
    """Jitted updates, singly or as a scan over a block; the state that is handed in is donated.

    Attributes:
      traces: how often a program was traced, and so compiled or taken from the cache: once per capacity and size of
        block, or something is wrong.
    """

    def __init__(self, train_step: Callable, mesh: Mesh, shardings: State, compiler_options: dict[str, Any]):
        self.traces = 0
        self._batch, self._block = batch_sharding(mesh), block_sharding(mesh)

        def jit(function, batches):
            return jax.jit(
                function,
                in_shardings=(shardings, batches),
                out_shardings=Sent(shardings, replicated(mesh), replicated(mesh)),
                donate_argnums=0,
                compiler_options=compiler_options,
            )

        def counted(state, batch):
            state, stats = train_step(state, batch)
            return state, (stats, state.skips)

        def single(state, batch):
            self.traces += 1
            state, (stats, skips) = counted(state, batch)
            return Sent(state, stats, skips)

        def several(state, batches):
            self.traces += 1
            state, (stats, skips) = jax.lax.scan(counted, state, batches)
            return Sent(state, jax.tree.map(lambda x: x.sum(0), stats), skips.max())

        self.single, self._several = jit(single, self._batch), jit(several, self._block)

    def __call__(self, state: State, block: range, batch: dict[str, Any]) -> Sent:
        """Starts the updates of a block and returns; `batch` as the loader makes it."""
        if len(block) == 1:
            return self.single(state, put(batch, self._batch))
        return self._several(state, put(batch, self._block))
