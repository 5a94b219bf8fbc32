"""Losses as pure functions of arrays, in float32 and in additive parts.

A mean over a batch is kept as its sum and its weight (`jaxvae.stats.Mean`), so that a micro-batch can be divided
by the weight of the whole batch: `share(part, whole.weight)` summed over micro-batches is the mean over the batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvae.stats import Mean


def cross_entropy(logits: Float[Array, "*n classes"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """-log softmax(logits)[label] in nats, in float32."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def share(part: Mean, weight: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """What a micro-batch adds to the mean of a whole batch whose weight is `weight`; 0 where that is 0."""
    return jnp.where(weight > 0, part.total / jnp.where(weight > 0, weight, 1.0), 0.0)


def kl_with_free_bits(part: Mean, whole: Mean, free_bits: float, mode: str) -> Float[Array, ""]:
    """KL divergence with a floor, in nats per example, as a micro-batch's share of the whole batch's value.

    The floor is applied to the mean over the *whole* batch; what lies below it is constant and has no gradient.

    * `total`: max(sum over dimensions, free_bits): a budget for the whole latent vector.
    * `per_dim`: sum over dimensions of max(kl of the dimension, free_bits) (Kingma et al. 2016, appendix C.8,
      without groups). The floor of the sum is free_bits times the number of dimensions.

    Args:
      part: mean KL per dimension [z] over the examples at hand (carries the gradient).
      whole: the same over the whole batch; equal to `part` when there is one micro-batch.
      free_bits: nats; 0 switches the floor off.
    """
    kl = share(part, whole.weight)
    if not free_bits:
        return kl.sum()
    # The share of the examples at hand in the batch: a constant floor is divided among micro-batches by it.
    portion = share(Mean(part.weight, part.weight), whole.weight)
    mean = jax.lax.stop_gradient(share(whole, whole.weight))
    if mode == "per_dim":
        return jnp.where(mean > free_bits, kl, free_bits * portion).sum()
    if mode == "total":
        return jnp.where(mean.sum() > free_bits, kl.sum(), free_bits * portion.mean())
    raise ValueError(f"free bits are 'total' or 'per_dim', not {mode!r}")


def linear_warmup(step: Int[Array, "*n"] | int, steps: int, target: float) -> Float[Array, "*n"]:
    """target * min(1, step / steps), `step` being 1 at the first update; `steps` = 0 means no warm-up."""
    return target * jnp.minimum(1.0, jnp.asarray(step, jnp.float32) / max(steps, 1))


def inverse_frequency_weights(
    counts: Int[np.ndarray, "classes"], weigh_absent: bool = False, sum_floor: float = 1.0
) -> Float[np.ndarray, "classes"]:
    """Class weights in proportion to 1 / (count + 1e-3), with mean 1 over the classes that count.

    A class that never occurs gets weight 0. With `weigh_absent` it gets 1 / 1e-3 like the original, which makes
    all real classes vanish beside it (specification of the glyph VAE, section 9.5); `sum_floor` is the original's
    lower bound of the normalising sum and has an effect only there.
    """
    counts = np.asarray(counts, np.float64)
    inverse = 1.0 / (counts + 1e-3)
    if weigh_absent:
        return (inverse * len(counts) / max(inverse.sum(), sum_floor)).astype(np.float32)
    inverse = np.where(counts > 0, inverse, 0.0)
    present = np.count_nonzero(counts)
    return (inverse * present / inverse.sum() if present else inverse).astype(np.float32)
