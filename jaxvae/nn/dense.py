"""The affine layer of the library."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxvae.nn.barriers import materialize_gradient
from jaxvae.nn.broadcast import add_broadcast
from jaxvae.nn.init import torch_uniform


class Dense(nn.Module):
    """`x @ kernel + bias`, initialised like torch.nn.Linear: both U(+-1/sqrt(in)).

    Parameters (float32): `kernel` [in, features], `bias` [features]. The product is computed in `dtype`.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = torch_uniform()
    bias_init: Initializer | None = None  # None: torch's, which needs the width of the input

    @nn.compact
    def __call__(self, x: Float[Array, "*B width"], columns: slice = slice(None)) -> Float[Array, "*B out"]:
        """Returns the output features `columns`, by default all; the parameters are always those of all."""
        width = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        bias = self.param("bias", self.bias_init or torch_uniform(width), (self.features,))
        product = x.astype(self.dtype) @ kernel[:, columns].astype(self.dtype)
        return materialize_gradient(add_broadcast(product, bias[columns]))
