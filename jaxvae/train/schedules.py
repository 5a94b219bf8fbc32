"""Learning rates as shares of the peak rate, by a clock: the updates made so far (0 at the first update).

A schedule is a linear warm-up and then one of the named curves, whose own count begins after the warm-up.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Curve = Callable[[jax.Array], jax.Array]  # whole number of updates -> share of the peak rate


def make_schedule(config, total_steps: int) -> Curve:
    """The share of `optim.lr` at a clock, by `optim.schedule`; `total_steps` is the length of the run."""
    s = config.optim.schedule
    length = s.steps or max(total_steps - s.warmup_steps, 1)
    recursion = s.torch_recursion and s.warmup_steps > 0
    curve = {
        "constant": lambda: constant,
        "cosine": lambda: cosine(length, s.end_factor, s.past_end == "rise", recursion),
        "cosine_restarts": lambda: cosine_restarts(s.decay_steps, s.restart_factor, s.end_factor),
        "exponential": lambda: exponential(s.decay_rate, s.decay_steps),
        "step": lambda: stairs(s.decay_rate, s.decay_steps),
    }[s.name]()
    return warmed_up(curve, s.warmup_steps, s.warmup_factor) if s.warmup_steps else curve


def warmed_up(curve: Curve, steps: int, start: float) -> Curve:
    """Rises linearly over the first `steps` updates; then `curve` begins at its 0.

    The two forms in use differ in where they are 1. With `start` = 0 the share at clock t is (t + 1) / steps: 1 with
    the last update of the warm-up. With `start` > 0 it is start + (1 - start) t / steps: `start` at the first
    update, 1 with the first update after the warm-up.
    """

    def share(clock):
        rise = start + (1 - start) * clock / steps if start else (clock + 1) / steps
        return jnp.where(clock < steps, rise, curve(jnp.maximum(clock - steps, 0)))

    return share


def constant(k):
    """The peak rate throughout."""
    return jnp.ones_like(k, jnp.float32)


def cosine(length: int, end: float, rise: bool = False, recursion: bool = False) -> Curve:
    """Half a cosine over `length` updates.

    Args:
      rise: go on along the cosine after `length`, up again, as torch's CosineAnnealingLR does; else stay at `end`.
      recursion: reproduce torch's recursive form begun after a warm-up. It takes the peak for the value at k = -1,
        so that the value at k = 0 alone is another: end + (1 - end) 2 / (1 + cos(pi / length)), above the peak.
        Source: specification of the sparse VQ-VAE, chapter 5. (Not defined for a length of 1, and left out there.)
    """

    def share(k):
        return half_cosine((k if rise else jnp.minimum(k, length)) / length, end)

    if not recursion or length == 1:
        return share
    first = end + (1 - end) * 2 / (1 + math.cos(math.pi / length))
    return lambda k: jnp.where(k == 0, first, share(k))


def cosine_restarts(first: int, factor: int, end: float) -> Curve:
    """A cosine from 1 to `end` over `first` updates, again from 1 over `factor` times as many, and so on.

    Source: Loshchilov and Hutter 2017 (SGDR); torch's CosineAnnealingWarmRestarts (T_0, T_mult).
    """
    if factor == 1:
        return lambda k: half_cosine(k % first / first, end)

    starts, lengths = [0], [first]
    while starts[-1] + lengths[-1] < 2**31:  # what a clock can reach
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * factor)

    def share(k):
        cycle = jnp.searchsorted(jnp.array(starts), k, side="right") - 1
        return half_cosine((k - jnp.array(starts)[cycle]) / jnp.array(lengths, jnp.float32)[cycle], end)

    return share


def half_cosine(fraction, end: float):
    """From 1 at `fraction` 0 down to `end` at 1: end + (1 - end) (1 + cos(pi fraction)) / 2.

    Source: Loshchilov and Hutter 2017 (SGDR), equation 5.
    """
    return end + (1 - end) * (1 + jnp.cos(math.pi * fraction)) / 2


def exponential(rate: float, steps: int) -> Curve:
    """rate^(k / steps)."""
    # By the logarithm in double precision: 0.9999 rounded to float32 would be off by 0.1 % after 50,000 updates.
    return lambda k: jnp.exp(math.log(rate) * (k / steps))


def stairs(rate: float, steps: int) -> Curve:
    """rate^floor(k / steps)."""
    return lambda k: exponential(rate, 1)(k // steps)
