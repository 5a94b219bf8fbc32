"""Tables that are looked up."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float, Int


def embedding(count: int, width: int, dtype, name: str) -> Callable[[Int[Array, "*n"]], Float[Array, "*n width"]]:
    """A table with PyTorch's N(0, 1) initialisation.

    Rows are cast when they have been looked up: the gradient of a row is the sum over all its uses, in float32.
    """
    table = nn.Embed(count, width, embedding_init=nn.initializers.normal(1.0), name=name)
    return lambda ids: table(ids).astype(dtype)
