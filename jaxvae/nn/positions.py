"""Sinusoidal position tables, as pure functions in float32."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _interleaved(positions: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """[n, 2k]: sin at even, cos at odd channels of positions x frequencies."""
    # float32 throughout, as the originals compute it: the phase p * w is rounded before the sine is taken.
    phase = positions.astype(np.float32)[:, None] * frequencies.astype(np.float32)[None, :]
    return np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(len(positions), -1)


def sinusoid_1d(length: int, width: int) -> Float[Array, "length width"]:
    """The glyph VAE's table: frequencies exp(-2k ln(10000) / (width/2 - 1)), k < width/2.

    The exponent is twice the usual one, so the slowest wave has frequency 1e-8 and about half of the channels are
    constant over any real length; trained checkpoints depend on it. An odd width gets a last column of zeros.
    Source: specification of the glyph VAE, section 3.1.
    """
    half = width // 2
    k = np.arange(half, dtype=np.float32)
    frequencies = np.exp(-2 * k * np.float32(math.log(10_000.0)) / max(1, half - 1))
    table = _interleaved(np.arange(length), frequencies)
    return jnp.asarray(np.pad(table, ((0, 0), (0, width - 2 * half))), jnp.float32)


def sinusoid_2d(rows: int, columns: int, width: int) -> Float[Array, "rows columns width"]:
    """Positions on a grid: the first half of the channels encodes the column, the second half the row.

    Within a half of width d: sin at 2k and cos at 2k+1 of p * exp(-2k ln(10000) / d).
    Source: specification of the glyph VAE, section 3.2.

    Raises:
      ValueError: if `width` is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"a 2-D sinusoid needs a width divisible by 4, got {width}")
    d = width // 2
    k = np.arange(d // 2, dtype=np.float32)
    frequencies = np.exp(-2 * k * np.float32(math.log(10_000.0)) / d)
    column = _interleaved(np.arange(columns), frequencies)
    row = _interleaved(np.arange(rows), frequencies)
    shape = (rows, columns, d)
    table = np.concatenate([np.broadcast_to(column[None], shape), np.broadcast_to(row[:, None], shape)], axis=-1)
    return jnp.asarray(table, jnp.float32)
