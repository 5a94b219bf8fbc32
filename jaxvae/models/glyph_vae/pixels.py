"""The signed distance image as tokens, for the encoder and for a decoder that sees it."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxvae.nn.activations import gelu
from jaxvae.nn.dense import Dense
from jaxvae.nn.norms import LayerNorm
from jaxvae.nn.positions import sinusoid_2d


class PixelEncoder(nn.Module):
    """Signed distance image -> patch features with 2-D positions (section 3.2).

    A 3x3 convolution, GELU, then one Dense per `patch` x `patch` square. Images whose sides are not multiples of
    the patch are padded with zeros at the right and bottom, after the first convolution.

    Returns the map before the norm [B, H', W', D] and the tokens [B, N, D], row by row.
    """

    embed: int
    patch: int
    stem_width: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, sdf: Float[Array, "B H W"]) -> tuple[Float[Array, "B h w D"], Float[Array, "B N D"]]:
        batch, height, width = sdf.shape
        p = self.patch
        rows, columns = -(-height // p), -(-width // p)
        # With one input channel the convolution is a product of nine shifted images with a small matrix; on CPU
        # its weight gradient is several times faster this way than XLA's convolution. The pixels are brought into
        # the order of the patches before it, when each has nine numbers, and not after it.
        bottom, right = rows * p - height, columns * p - width
        padded = jnp.pad(sdf.astype(self.dtype), ((0, 0), (1, 1 + bottom), (1, 1 + right)))
        shifts = [padded[:, i : i + rows * p, j : j + columns * p] for i in range(3) for j in range(3)]
        x = jnp.stack(shifts, axis=-1).reshape(batch, rows, p, columns, p, 9).swapaxes(2, 3)
        x = gelu(Dense(self.stem_width, dtype=self.dtype, name="stem")(x))
        if bottom or right:
            inside = (np.arange(rows * p) < height)[:, None] & (np.arange(columns * p) < width)
            inside = inside.reshape(rows, p, columns, p, 1).swapaxes(1, 2)
            x = jnp.where(inside, x, jnp.zeros((), x.dtype))
        x = x.reshape(batch, rows, columns, p * p * self.stem_width)
        x = Dense(self.embed, dtype=self.dtype, name="patch")(x)

        x += sinusoid_2d(rows, columns, self.embed).astype(self.dtype)
        tokens = LayerNorm(dtype=self.dtype, name="norm")(x.reshape(batch, rows * columns, self.embed))
        return x, tokens
