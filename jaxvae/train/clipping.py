"""Clipping gradients by their global norm, with a fixed limit or one that follows the norms seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), PyTorch's `clip_grad_norm_` to the letter."""

    def update(updates, state, params=None):
        del params
        return _scale(updates, optax.tree.norm(updates), max_norm), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class PercentileState(NamedTuple):
    """The norms of the last updates, oldest overwritten first, how many were seen, and the limit in force."""

    norms: jax.Array  # [window]
    seen: jax.Array
    limit: jax.Array


def clip_by_percentile(percentile: float, window: int, max_norm: float) -> optax.GradientTransformation:
    """Clips by global norm to a percentile of the last `window` norms, and never to more than `max_norm`.

    Until `window` norms have been seen the limit is `max_norm` (infinity for none). A norm takes part in the limit of
    the next update, measured before clipping and only if it is finite. Source: specification of the sparse VQ-VAE,
    chapter 5 (AdaptiveGradClipper).
    """

    def init(params):
        del params
        return PercentileState(jnp.zeros(window), jnp.zeros((), jnp.int32), jnp.asarray(max_norm, jnp.float32))

    def update(updates, state, params=None):
        del params
        norm = optax.tree.norm(updates)
        finite = jnp.isfinite(norm)
        norms = jnp.where(finite, state.norms.at[state.seen % window].set(norm), state.norms)
        seen = state.seen + finite
        limit = jnp.minimum(jnp.percentile(norms, percentile), max_norm)
        limit = jnp.where(seen >= window, limit, state.limit)
        return _scale(updates, norm, state.limit), PercentileState(norms, seen, limit)

    return optax.GradientTransformation(init, update)


def _scale(updates, norm, limit):
    factor = jnp.minimum(1.0, limit / (norm + 1e-6))
    return jax.tree.map(lambda g: g * factor, updates)
