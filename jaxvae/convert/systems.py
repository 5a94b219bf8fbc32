"""The systems whose checkpoints can be converted, and what has to be known of each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae.convert import glyph_vae
from jaxvae.convert.names import Table, from_flax
from jaxvae.errors import UserError, choose

Shapes = dict[str, tuple[int, ...]]


class System(NamedTuple):
    """How checkpoints of a system are laid out.

    Attributes:
      parts: keys of the state dictionaries in a checkpoint of the original.
      sizes: keys of `config.model` from shapes by name.
      hidden: keys of `config.model` that no shape shows.
      table: names, from `config.model`.
      parameters: shapes of the Flax parameters, from `config.model`.
    """

    parts: tuple[str, ...]
    sizes: Callable[[Shapes], dict[str, Any]]
    hidden: tuple[str, ...]
    table: Callable[[Mapping[str, Any]], Table]
    parameters: Callable[[Mapping[str, Any]], Any]

    def check(self, tensors: Mapping[str, np.ndarray], model: Mapping[str, Any]) -> None:
        """Refuses tensors that are not exactly those of `model`, in float32.

        Raises:
          UserError: listing all that are missing, unexpected or misshapen.
        """
        wanted, found = self._describe_model(model), {name: _describe(x) for name, x in tensors.items()}
        lists = {
            "missing": sorted(wanted.keys() - found.keys()),
            "unexpected": sorted(found.keys() - wanted.keys()),
            "misshapen": [
                f"{name} {found[name]} instead of {wanted[name]}"
                for name in sorted(wanted.keys() & found.keys())
                if found[name] != wanted[name]
            ],
        }
        faults = [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]
        if faults:
            raise UserError("; ".join(faults))

    def _describe_model(self, model: Mapping[str, Any]) -> dict[str, str]:
        # Arrays of the right shapes that take no memory: layouts are changed on them as on the weights.
        zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), self.parameters(model))
        return {name: _describe(x) for name, x in from_flax(self.table(model), zeros).items()}


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


SYSTEMS = {
    "glyph_vae": System(
        parts=("enc", "dec"),
        sizes=glyph_vae.model_sizes,
        hidden=("heads",),
        table=glyph_vae.table,
        parameters=glyph_vae.parameter_shapes,
    ),
}


def system(name: str) -> System:
    """The system of that name.

    Raises:
      UserError: if there is none; it lists those that are.
    """
    choose("SYSTEM", name, SYSTEMS)
    return SYSTEMS[name]
