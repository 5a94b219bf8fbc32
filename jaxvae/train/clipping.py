"""Clipping gradients by their global norm, to a fixed limit or to one that follows the norms seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), PyTorch's `clip_grad_norm_` to the letter."""

    def update(updates, state, params=None):
        del params
        return _clip(updates, optax.tree.norm(updates), max_norm), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class PercentileState(NamedTuple):
    """A ring buffer of the last finite norms [window], how many were seen in all, and the limit now in force."""

    norms: jax.Array
    seen: jax.Array
    limit: jax.Array


def clip_by_percentile(percentile: float, window: int, max_norm: float) -> optax.GradientTransformation:
    """Clips as above to a percentile of the last `window` norms, and never to more than `max_norm`.

    Until `window` norms have been seen the limit is `max_norm` (infinity: none). A norm is measured before it is
    clipped and takes part from the next update on, if it is finite. Source: AdaptiveGradClipper in the specification
    of the sparse VQ-VAE, chapter 5.
    """

    def init(params):
        del params
        return PercentileState(jnp.zeros(window), jnp.zeros((), jnp.int32), jnp.float32(max_norm))

    def update(updates, state, params=None):
        del params
        norm = optax.tree.norm(updates)
        finite = jnp.isfinite(norm)
        norms = jnp.where(finite, state.norms.at[state.seen % window].set(norm), state.norms)
        seen = state.seen + finite
        limit = jnp.where(seen >= window, jnp.minimum(jnp.percentile(norms, percentile), max_norm), max_norm)
        return _clip(updates, norm, state.limit), PercentileState(norms, seen, limit)

    return optax.GradientTransformation(init, update)


def _clip(updates, norm, limit):
    factor = jnp.minimum(1.0, limit / (norm + 1e-6))
    return jax.tree.map(lambda g: g * factor, updates)
