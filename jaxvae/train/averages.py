"""Moving averages of the weights."""

import jax
import jax.numpy as jnp


def decay_at(row, clock):
    """Decay of the update number `clock` (1 at the first) that is due."""
    if not row.power:
        return row.decay
    age = jnp.maximum(clock - row.start, 0).astype(jnp.float32)
    return jnp.minimum(row.decay, 1 - (1 + age) ** -row.power)


def update_average(average, params, row, clock):
    """average + (1 - decay) (params - average) where an update is due; a copy until update `start`."""
    decay = decay_at(row, clock)

    def blend(a, p):
        return jnp.where(clock <= row.start, p, a + (1.0 - decay) * (p - a))

    if row.every == 1:
        return jax.tree.map(blend, average, params)
    due = (clock - 1) % row.every == 0
    return jax.tree.map(lambda a, p: jnp.where(due, blend(a, p), a), average, params)
