"""PyTorch twins of tasks: which there are, what one provides, and the proof that it computes what jaxvae does.

A twin is a module beside this one that has a class `TorchTwin` as described by `Twin`, and a function
`check(config)` that raises UserError for what the twin cannot do.
"""

import importlib
import importlib.util
import math
from types import ModuleType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.config import require
from jaxvae.errors import UserError
from jaxvae.tasks.task import example_keys
from jaxvae.train.state import TRAIN

# {task: module}
TORCH_TWINS = {"glyph_vae": "torch_glyph_vae"}
# Largest relative difference between jaxvae and its twin at which they compute the same.
TOLERANCE = 1e-4


class Twin(Protocol):
    """A training of a task under a jaxvae configuration, on one batch that it gets once.

    Attributes:
      compared_at: how many updates are made before the one that is compared. All terms of the loss must have their
        weight there: what a warm-up still keeps at 0 would be compared with anything.
    """

    compared_at: int

    def __init__(self, config, params, collections: dict[str, Any], batch: dict[str, np.ndarray]):
        """Takes jaxvae's initial parameters and other collections, and a batch as the train step gets it."""
        ...

    def losses(self, draws: dict[str, np.ndarray]) -> dict[str, float]:
        """'loss', its weighted terms 'term_<name>' and 'grad_norm' (before clipping) of update `compared_at` + 1.

        `draws` is what the task drew for the batch. The weights stay as they are.
        """
        ...

    def step(self) -> float:
        """One update with noise of its own; returns the loss when the work is done."""
        ...


def find_twin(config) -> ModuleType:
    """The module with the PyTorch twin of the configuration's task.

    Raises:
      UserError: if there is none, torch is missing, or the twin cannot do what the configuration asks for.
    """
    if config.task not in TORCH_TWINS:
        raise UserError(f"--against=torch: task {config.task} has no twin, only {', '.join(TORCH_TWINS)}")
    if importlib.util.find_spec("torch") is None:
        raise UserError("--against=torch: torch is not installed: pip install -e '.[torch]'")
    if jax.device_count() > 1 or jax.default_backend() != "cpu":
        raise UserError("--against=torch compares on one CPU: set JAX_PLATFORMS=cpu")
    what = "--against=torch compares"
    require(config, "precision.compute", config.precision.compute == "float32", f"{what} in float32 only")
    require(config, "optim.accum", config.optim.accum == 1, f"{what} whole batches only: 1")
    module = importlib.import_module(TORCH_TWINS[config.task])
    module.check(config)
    return module


def prove_equal(parts, step, twin: Twin) -> dict[str, float]:
    """Relative differences of loss, loss terms and the gradient's norm: same weights, batch and noise.

    Args:
      parts: `jaxvae.train.build.Parts`.
      step: has a fresh `state`, `compiled`, the train step, and `batch`, on the device.

    Raises:
      RuntimeError: if one is above `TOLERANCE` or the twin does not give it: then the two do not compute the same,
        and times mean nothing.
    """
    updates = twin.compared_at
    state = jax.tree.map(lambda x: x.copy(), step.state)  # the step eats it
    state = state.replace(step=jax.device_put(np.int32(updates), step.state.step.sharding))
    key = jax.random.fold_in(jax.random.fold_in(state.key, TRAIN), updates)
    draws = parts.task.draws(example_keys(key, jnp.arange(parts.rows)), step.batch)
    _, stats, _ = step.compiled(state, step.batch)
    theirs = twin.losses(jax.tree.map(np.asarray, draws))
    names = [name for name in stats if name in ("loss", "grad_norm") or name.startswith("term_")]
    pairs = {name: (float(stats[name].compute()), theirs.get(name, math.nan)) for name in names}
    difference = {name: abs(ours - other) / max(abs(other), 1e-30) for name, (ours, other) in pairs.items()}
    if wrong := {name: pairs[name] for name, d in difference.items() if not d <= TOLERANCE}:
        raise RuntimeError(f"jaxvae and its twin differ by more than {TOLERANCE}: (ours, theirs) = {wrong}")
    return difference
