"""The optimizer: an optax chain that gives a direction, and a schedule that gives its length.

The update is params - lr(step) * direction. The learning rate stays outside of the chain, so that it depends on
the global step alone and there is one place that reads it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), PyTorch's `clip_grad_norm_` to the letter."""

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def kernels(params):
    """True for matrices and convolutions, by the name of their leaf; False for biases, norms' scales and tables."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(config) -> optax.GradientTransformation:
    """Clipping, then the direction of AdamW, Adam (with weight decay as an L2 penalty) or SGD with momentum."""
    c = config.optim
    decay = optax.add_decayed_weights(c.weight_decay, mask={"kernels": kernels, "all": None}[c.decay_on])
    adam = optax.scale_by_adam(c.b1, c.b2, c.eps)
    clip = clip_by_global_norm(c.clip.norm) if c.clip.norm else optax.identity()
    return {
        "adamw": optax.chain(clip, adam, decay),
        "adam": optax.chain(clip, decay, adam),
        "sgd": optax.chain(clip, decay, optax.trace(c.b1)),
    }[c.name]


def make_schedule(config, total_steps: int) -> Callable[[jax.Array], jax.Array]:
    """Learning rate by the number of updates made so far (0 at the first update).

    Warm-up is linear and reaches the full rate with update `warmup_steps`, then the named schedule begins:
    cosine falls to end_factor * lr at `total_steps`, exponential by decay_rate per decay_steps, step likewise but
    at once.
    """
    c, s = config.optim, config.optim.schedule
    after_warmup = {
        "constant": lambda: optax.constant_schedule(c.lr),
        "cosine": lambda: optax.cosine_decay_schedule(c.lr, max(total_steps - s.warmup_steps, 1), alpha=s.end_factor),
        "exponential": lambda: optax.exponential_decay(c.lr, s.decay_steps, s.decay_rate),
        "step": lambda: optax.exponential_decay(c.lr, s.decay_steps, s.decay_rate, staircase=True),
    }[s.name]()

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (step + 1) / max(s.warmup_steps, 1))
        return warm * after_warmup(jnp.maximum(step - s.warmup_steps, 0))

    return schedule
