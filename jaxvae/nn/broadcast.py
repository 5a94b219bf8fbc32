"""Sums whose second operand is repeated over axes of the first."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def add_broadcast(x: Float[Array, "*shape"], y: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    """x + y in the type of `x`; `y` is repeated over axes of `x`, and its gradient is summed over them in float32.

    What reverse mode makes of a repetition is a sum in the type of the operands. In bfloat16 it loses terms when it
    is long: 1 + 1 + ... stays at 256.
    """
    return (x + y.astype(jnp.float32)).astype(x.dtype)
