"""Exponential moving averages of the weights.

A row of `optim.ema` says how one of them moves; its clock counts the updates, 1 at the first:

    decay   share of itself that an average keeps when it moves
    every   it moves at updates 1, 1 + every, 1 + 2 every, ...
    start   until this update (included) moving means taking the weights as they are
    power   p > 0: early averages forget faster, decay <- min(decay, 1 - (1 + clock - start)^-p); 0: constant decay

Source: the class EMA of ema-pytorch in the specification of the latent diffusion, chapter 5, with start =
update_after_step + 1 and inv_gamma = 1.
"""

import jax
import jax.numpy as jnp


def weight_at(row, clock):
    """What the weights count in the average of this update: 1 - decay, 1 for a copy, 0 when it does not move.

    A plain number for a row that always does the same.
    """
    weight = 1.0 - row.decay
    if row.power:
        weight = jnp.maximum(weight, (1.0 + jnp.maximum(clock - row.start, 0)) ** -row.power)
    if row.start:
        weight = jnp.where(clock <= row.start, 1.0, weight)
    if row.every > 1:
        weight = jnp.where((clock - 1) % row.every == 0, weight, 0.0)
    return weight


def update_average(average, params, row, clock):
    """average + weight (params - average), with the weight of this update; `params` must be finite."""
    weight = weight_at(row, clock)

    def blend(average, param):
        blended = average + weight * (param - average)
        return jnp.where(weight == 1, param, blended) if row.start else blended  # a copy is exact

    return jax.tree.map(blend, average, params)
