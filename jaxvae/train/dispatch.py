"""What is sent to the devices at once: one update, or several in a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxvae.stats import Stats
from jaxvae.train.compilations import Compilations
from jaxvae.train.sharding import batch_sharding, block_sharding, put, replicated
from jaxvae.train.state import State


class Sent(NamedTuple):
    """The state after a block of updates, their summed statistics, and the most skipped updates in a row within it."""

    state: State
    stats: Stats
    skips: jax.Array


class Dispatch:
    """Jitted updates, singly or as a scan over a block; the state that is handed in is donated.

    One program per capacity and size of block.
    """

    def __init__(
        self,
        train_step: Callable,
        mesh: Mesh,
        shardings: State,
        compiler_options: dict[str, Any],
        compilations: Compilations,
    ):
        self._batch, self._block = batch_sharding(mesh), block_sharding(mesh)

        def jit(function, batches):
            return jax.jit(
                compilations.counted(function),
                in_shardings=(shardings, batches),
                out_shardings=Sent(shardings, replicated(mesh), replicated(mesh)),
                donate_argnums=0,
                compiler_options=compiler_options,
            )

        def update(state, batch):
            state, stats = train_step(state, batch)
            return state, (stats, state.skips)

        def single(state, batch):
            state, (stats, skips) = update(state, batch)
            return Sent(state, stats, skips)

        def several(state, batches):
            state, (stats, skips) = jax.lax.scan(update, state, batches)
            return Sent(state, jax.tree.map(lambda x: x.sum(0), stats), skips.max())

        self.single, self._several = jit(single, self._batch), jit(several, self._block)

    def __call__(self, state: State, block: range, batch: dict[str, Any]) -> Sent:
        """Starts the updates of a block and returns; `batch` as the loader makes it."""
        if len(block) == 1:
            return self.single(state, put(batch, self._batch))
        return self._several(state, put(batch, self._block))
