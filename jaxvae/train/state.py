"""The state of a training: one pytree."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxvae.train.loss_scale import init_loss_scale
from jaxvae.train.patterns import join, split_frozen


@flax.struct.dataclass
class State:
    """Everything that a step changes, and the key from which all its randomness derives.

    Attributes:
      params: trained weights, float32.
      frozen: the weights that `optim.freeze` names; `variables` puts both together.
      collections: the other collections of the model ({} for most), e.g. `statistics` of the training data.
      opt_state: the optimizer's.
      ema: {name: average of params}.
      lr_scale: {group: factor of its learning rate}, 1 until a monitor reduces it.
      loss_scale: {'scale', 'good'} with float16, otherwise {}.
      step: batches seen so far, int32; skipped updates count.
      updates: the clock of schedules and averages: as `step`, but with `optim.on_skip = hold` without skipped updates.
      skips: skipped updates in a row, up to now.
      key: root key; every use folds in a purpose and the step.
    """

    params: Any
    frozen: Any = flax.struct.field(default_factory=dict)
    collections: dict[str, Any] = flax.struct.field(default_factory=dict)
    opt_state: Any = ()
    ema: dict[str, Any] = flax.struct.field(default_factory=dict)
    lr_scale: dict[str, Any] = flax.struct.field(default_factory=dict)
    loss_scale: dict[str, Any] = flax.struct.field(default_factory=dict)
    step: Any = 0
    updates: Any = 0
    skips: Any = 0
    key: Any = None

    def variables(self, weights: str = "raw") -> dict[str, Any]:
        """Collections for the task's methods, with the raw weights or a named average."""
        params = self.params if weights == "raw" else self.ema[weights]
        return {"params": join(params, self.frozen), **self.collections}


# Purposes of random numbers: what is folded into the root key first.
INIT, TRAIN, EVALUATE = range(3)


def init_variables(task, config, batch) -> dict[str, Any]:
    """Fresh variables of a task, from the seed of the configuration."""
    key = jax.random.fold_in(jax.random.key(config.seed), INIT)
    return dict(task.init(key, jax.tree.map(jnp.asarray, batch)))


def create_state(task, optimizer, config, statistics, batch) -> State:
    """A fresh state; pure, to be jitted with the shardings of its shapes."""
    variables = init_variables(task, config, batch)
    params, frozen = split_frozen(variables.pop("params"), config.optim.freeze)
    return State(
        params=params,
        frozen=frozen,
        collections={**variables, "statistics": jax.tree.map(jnp.asarray, statistics)},
        opt_state=optimizer.transformation.init(params),
        # Copies: an average that shares its buffer with the weights could not be donated.
        ema={name: jax.tree.map(jnp.copy, params) for name in config.optim.ema},
        lr_scale={group: jnp.ones(()) for group in optimizer.peak},
        loss_scale=init_loss_scale(config.precision.loss_scale) if config.precision.compute == "float16" else {},
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        skips=jnp.zeros((), jnp.int32),
        key=jax.random.key(config.seed),
    )
