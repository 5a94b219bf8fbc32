"""A trained glyph VAE on whole glyphs: their posteriors, and outlines from latents."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxvae.data.glyphs import Glyph
from jaxvae.data.loader import assemble
from jaxvae.data.plan import Plan
from jaxvae.errors import UserError
from jaxvae.outlines import COORD_LIMIT
from jaxvae.tasks.glyph_vae import GlyphVAETask, Outlines
from jaxvae.tasks.task import Task, example_keys
from jaxvae.train.precision import products

# Glyphs that go through the model at once.
BATCH_SIZE = 64


class Moments(NamedTuple):
    """Mean and log-variance of posteriors, [N, Z], in NumPy."""

    mean: np.ndarray
    logvar: np.ndarray


def require_glyph_vae(task: Task, config, folder) -> GlyphVAETask:
    """The task of a run, if it is a glyph VAE.

    Raises:
      UserError: if it is of another system.
    """
    if not isinstance(task, GlyphVAETask):
        raise UserError(f"{folder} is a run of {config.task}: this script is for runs of glyph_vae")
    return task


class GlyphModel:
    """Functions of glyphs, compiled once per length and number of glyphs.

    Args:
      task: of the run.
      variables: its weights.
    """

    def __init__(self, task: GlyphVAETask, variables: dict[str, Any]):
        self.task, self.variables = task, variables
        self._moments, self._reconstruct = jax.jit(self._encode), jax.jit(task.reconstruct)

    def posterior(self, glyphs: Sequence[Glyph]) -> Moments:
        """q(z | glyph) of every glyph."""
        return self._batched(glyphs, lambda batch, rows: self._moments(self.variables, batch))

    def prior(self, glyphs: Sequence[Glyph], seed: int) -> Float[np.ndarray, "N Z"]:
        """A draw from the prior for every glyph."""
        key = jax.random.key(seed)

        def draw(batch, rows):
            draws = self.task.draws(example_keys(key, rows), batch)
            return self.task.latents(self.variables, batch, draws, "prior")

        return self._batched(glyphs, draw)

    def outlines(self, glyphs: Sequence[Glyph], latents: Float[np.ndarray, "N Z"]) -> Outlines:
        """Outlines from latents, in arrays of NumPy; of the glyphs the decoder is given what `decoder_sees` names.

        Coordinates are clamped to `COORD_LIMIT`, as everywhere where an outline leaves the model.
        """
        found = self._batched(glyphs, lambda batch, rows: self._reconstruct(self.variables, batch, latents[rows]))
        return found._replace(coords=np.clip(found.coords, -COORD_LIMIT, COORD_LIMIT))

    def _encode(self, variables, batch) -> Moments:
        posterior = self.task.posterior(variables, batch)
        return Moments(posterior.mean, posterior.logvar)

    def _batched(self, glyphs: Sequence[Glyph], function: Callable[[dict, jax.Array], Any]) -> Any:
        """function(batch, numbers of its glyphs) over all glyphs, in their order."""
        source = self.task.source(glyphs, rsm=False, num_buckets=1)
        plan = Plan(source, min(BATCH_SIZE, len(glyphs)), seed=0, shuffle=False)
        results = []
        for step in range(plan.steps_per_epoch):
            planned = plan.batch(step)
            batch = jax.tree.map(jnp.asarray, assemble(plan, planned, plan.batch_size))
            with products(self.task.config):
                found = jax.device_get(function(batch, batch["index"]))
            results.append(found)
        # Padding is behind the last glyph.
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(glyphs)], *results)
