"""Dynamic loss scaling: what keeps the small gradients of float16 from vanishing.

The loss is multiplied by a scale before it is differentiated and the gradients are divided by it. The scale grows
after so many good updates in a row and shrinks when a gradient overflows, in which case the update is skipped.
Source: Micikevicius et al. 2018, as torch.amp.GradScaler does it. A row says how:

    init                scale at the first update
    growth_interval     good updates in a row after which the scale is multiplied by growth_factor
    backoff_factor      what it is multiplied by when a gradient is not finite
    min, max            limits of the scale
"""

import jax
import jax.numpy as jnp

LossScale = dict[str, jax.Array]  # scale: float32; good: int32, good updates since the scale last changed


def init_loss_scale(row) -> LossScale:
    """The state before the first update."""
    return {"scale": jnp.float32(row.init), "good": jnp.int32(0)}


def update_loss_scale(state: LossScale, finite, row) -> LossScale:
    """The state after an update whose gradients were all finite, or not."""
    good = jnp.where(finite, state["good"] + 1, 0)
    grows = good >= row.growth_interval
    factor = jnp.where(grows, row.growth_factor, jnp.where(finite, 1.0, row.backoff_factor))
    scale = jnp.clip(state["scale"] * factor, row.min, row.max)
    return {"scale": scale, "good": jnp.where(grows, 0, good)}
