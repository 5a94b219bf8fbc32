"""Dynamic scaling of the loss, so that the small gradients of float16 survive."""

import jax.numpy as jnp


def init_loss_scale(row):
    """The scale before the first update, and how many finite updates in a row it has seen."""
    return {"scale": jnp.asarray(row.init, jnp.float32), "good": jnp.zeros((), jnp.int32)}


def update_loss_scale(state, finite, row):
    """After an update: x growth_factor when growth_interval in a row were finite, x backoff_factor when not finite."""
    good = jnp.where(finite, state["good"] + 1, 0)
    grown = good >= row.growth_interval
    factor = jnp.where(finite, jnp.where(grown, row.growth_factor, 1.0), row.backoff_factor)
    return {"scale": jnp.clip(state["scale"] * factor, row.min, row.max), "good": jnp.where(grown, 0, good)}
