"""The position-wise feed-forward network of a transformer."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxvae.nn.activations import gelu
from jaxvae.nn.dense import Dense


class FeedForward(nn.Module):
    """Dense to `multiple` times the width, GELU (exact erf form), Dense back."""

    multiple: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        width = x.shape[-1]
        h = Dense(self.multiple * width, dtype=self.dtype, name="up")(x)
        return Dense(width, dtype=self.dtype, name="down")(gelu(h))
