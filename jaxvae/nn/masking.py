"""Sequences with padding: positions outside a mask have no effect."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_mean(x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """Mean over the valid positions, in float32; 0 where there is none."""
    total = jnp.where(mask[..., None], x.astype(jnp.float32), 0.0).sum(1)
    return total / jnp.maximum(mask.sum(1, keepdims=True), 1)


def zero_outside(x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
    """Zeros the positions outside the mask; a `where`, since 0 * NaN is NaN."""
    return jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
