"""The state of a training: one pytree."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class State:
    """Everything that a step changes, and the key from which all its randomness derives.

    Attributes:
      step: updates made so far, int32.
      params: trainable weights, float32.
      collections: the other collections of the model ({} for most), e.g. `statistics` of the training data.
      opt_state: the optimizer's.
      ema: {name: average of params}.
      key: root key; every use folds in a purpose and the step.
    """

    step: Any
    params: Any
    collections: dict[str, Any]
    opt_state: Any
    ema: dict[str, Any]
    key: Any

    def variables(self, weights: str = "raw") -> dict[str, Any]:
        """Collections for the task's methods, with the raw weights or a named average."""
        params = self.params if weights == "raw" else self.ema[weights]
        return {"params": params, **self.collections}


# Purposes of random numbers: what is folded into the root key first.
INIT, TRAIN, EVALUATE = range(3)


def create_state(task, optimizer, ema_rows, statistics, batch, seed: int) -> State:
    """A fresh state; pure, to be jitted with the shardings of its shapes."""
    key = jax.random.key(seed)
    variables = dict(task.init(jax.random.fold_in(key, INIT), jax.tree.map(jnp.asarray, batch)))
    params = variables.pop("params")
    collections = {**variables, "statistics": jax.tree.map(jnp.asarray, statistics)}
    # Copies: an average that shares its buffer with the weights could not be donated.
    ema = {name: jax.tree.map(jnp.copy, params) for name in ema_rows}
    return State(jnp.zeros((), jnp.int32), params, collections, optimizer.init(params), ema, key)
