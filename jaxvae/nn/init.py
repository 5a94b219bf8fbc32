"""Initialisers with the bounds of torch's layers, so that a fresh model starts where the original did."""

import math

import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike


def torch_uniform(fan_in: int | None = None) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for weights and biases of Linear and Conv layers.

    (torch writes the weight's as `kaiming_uniform_(a=sqrt(5))`, which has the same bound.)

    Args:
      fan_in: number of inputs that meet in one output. If None, the product of all axes but the last, which
        is right for kernels [in, out] and [*window, in / groups, out]. A bias cannot know it: give it the
        fan-in of its kernel. A transposed convolution needs it too: torch counts window x out / groups there.
    """

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        bound = 1 / math.sqrt(math.prod(shape[:-1]) if fan_in is None else fan_in)
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return initialize
