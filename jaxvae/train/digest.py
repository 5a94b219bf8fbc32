"""Digests of arrays on devices: a flipped bit in a checkpoint, or in one of several copies, is found.

The digest of an array is sum_i w_i x_i modulo 2^32 over the bits x_i of its elements, with odd weights w_i that
depend on the place i. Whatever changes a single element changes the digest, as an odd number has an inverse modulo
2^32; anything else escapes with a chance of 2^-32. Whole numbers add up to the same in any order, so the digest does
not depend on how an array is split over devices, and only the digest has to leave them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae.train.patterns import by_name

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def digest_array(x: jax.Array) -> jax.Array:
    """The digest of one array, uint32; keys of random numbers count by their data."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    bits = x.astype(jnp.uint8) if x.dtype == bool else jax.lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize])
    place = jnp.arange(math.prod(x.shape), dtype=jnp.uint32).reshape(x.shape)
    # A hash of the place (multiplication and shift), so that neighbours that change places are noticed.
    place = (place ^ (place >> 15)) * jnp.uint32(0x9E3779B1)
    weight = (place ^ (place >> 13)) | jnp.uint32(1)
    return jnp.sum(bits.astype(jnp.uint32) * weight, dtype=jnp.uint32)


def digests(tree: Any) -> dict[str, int]:
    """{name of a leaf: its digest}; waits for the arrays."""
    found = jax.device_get({name: digest_array(leaf) for name, leaf in by_name(tree).items()})
    return {name: int(value) for name, value in found.items()}
