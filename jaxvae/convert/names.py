"""Renaming weights between PyTorch state dictionaries and Flax parameters.

A table lists modules: (name there, path here, kind). A kind says how the module's tensors are called and laid out
on both sides; every layout has an inverse, so one table serves both directions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvae.errors import UserError


class Leaf(NamedTuple):
    """One tensor of a module: its name there, its path here, and the change of layout each way."""

    there: str
    here: str
    to_here: Callable[[np.ndarray], np.ndarray] = lambda x: x
    to_there: Callable[[np.ndarray], np.ndarray] = lambda x: x


Kind = tuple[Leaf, ...]
Table = Sequence[tuple[str, str, Kind]]


def _transposed(there: str, here: str) -> Leaf:
    return Leaf(there, here, np.transpose, np.transpose)


# PyTorch keeps [out, in], Flax [in, out].
LINEAR: Kind = (_transposed("weight", "kernel"), Leaf("bias", "bias"))
NORM: Kind = (Leaf("weight", "scale"), Leaf("bias", "bias"))
EMBEDDING: Kind = (Leaf("weight", "embedding"),)
# torch.nn.MultiheadAttention with queries, keys and values packed in this order.
ATTENTION: Kind = (
    _transposed("in_proj_weight", "in_proj/kernel"),
    Leaf("in_proj_bias", "in_proj/bias"),
    _transposed("out_proj.weight", "out_proj/kernel"),
    Leaf("out_proj.bias", "out_proj/bias"),
)


def conv_as_dense(channels: int) -> Kind:
    """A square convolution [out, in, k, k] kept as a Dense kernel [k * k * in, out] over rows, columns, channels."""

    def to_here(x):
        return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def to_there(x):
        side = round((x.shape[0] / channels) ** 0.5)
        return x.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)

    return (Leaf("weight", "kernel", to_here, to_there), Leaf("bias", "bias"))


def within(there: str, here: str, table: Table) -> list[tuple[str, str, Kind]]:
    """A module's table below a prefix on each side."""
    return [(there + name, here + path, kind) for name, path, kind in table]


def to_flax(table: Table, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested Flax parameters from named tensors.

    Raises:
      UserError: naming tensors that are missing or that the table does not know.
    """
    leaves = _leaves(table)
    _refuse("tensors", leaves.keys(), tensors.keys())
    flat = {tuple(leaf.here.split("/")): leaf.to_here(np.asarray(tensors[name])) for name, leaf in leaves.items()}
    return unflatten_dict(flat)


def from_flax(table: Table, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Named tensors from nested Flax parameters: the inverse of `to_flax`.

    Raises:
      UserError: naming parameters that are missing or that the table does not know.
    """
    flat = {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    leaves = _leaves(table)
    _refuse("parameters", {leaf.here for leaf in leaves.values()}, flat.keys())
    return {name: leaf.to_there(flat[leaf.here]) for name, leaf in leaves.items()}


def _leaves(table: Table) -> dict[str, Leaf]:
    return {
        f"{module}.{leaf.there}": leaf._replace(here=f"{path}/{leaf.here}")
        for module, path, kind in table
        for leaf in kind
    }


def _refuse(what: str, wanted, found) -> None:
    missing, unexpected = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unexpected:
        parts = [f"missing {', '.join(missing)}" if missing else "", f"unexpected {', '.join(unexpected)}"]
        raise UserError(f"{what} do not fit the model: {'; '.join(parts[: 1 + bool(unexpected)]).strip('; ')}")
