"""Learning rates by the number of updates made so far (0 at the first update), as shares of the peak rate.

A schedule is warm-up, then one of the named curves, whose own count begins after the warm-up.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Curve = Callable[[jax.Array], jax.Array]  # updates since the end of the warm-up -> share of the peak


def make_schedule(config, total_steps: int) -> Curve:
    """The share of `optim.lr` at an update, by `optim.schedule`; `total_steps` is the length of the run."""
    s = config.optim.schedule
    length = s.steps or max(total_steps - s.warmup_steps, 1)
    curve = {
        "constant": lambda: jnp.ones_like,
        "cosine": lambda: cosine(length, s.end_factor, s.past_end == "rise", s.warmup_steps > 0 and s.torch_recursion),
        "cosine_restarts": lambda: cosine_restarts(s.decay_steps, s.restart_factor, s.end_factor, total_steps),
        "exponential": lambda: exponential(s.decay_rate, s.decay_steps),
        "step": lambda: exponential(s.decay_rate, s.decay_steps, staircase=True),
    }[s.name]()
    return with_warmup(curve, s.warmup_steps, s.warmup_factor)


def with_warmup(curve: Curve, steps: int, start: float) -> Curve:
    """Rises linearly over `steps` updates before `curve` begins.

    With `start` = 0 the first update has 1 / steps and the last of the warm-up 1 (update t: (t + 1) / steps). With
    `start` > 0 the first update has `start` and the first after the warm-up 1 (start + (1 - start) t / steps).
    """

    def share(step):
        warm = start + (1 - start) * step / steps if start else (step + 1) / steps
        return jnp.where(step < steps, warm, curve(jnp.maximum(step - steps, 0)))

    return share if steps else curve


def cosine(length: int, end: float, rise: bool, recursive: bool) -> Curve:
    """end + (1 - end) (1 + cos(pi k / length)) / 2 (Loshchilov and Hutter 2017, eq. 5), then `end`.

    Args:
      rise: go on along the cosine after `length`, up again, as torch's CosineAnnealingLR does.
      recursive: torch's recursive form, begun after a warm-up, takes the rate before it for that of k = -1: its
        first value is end + (1 - end) 2 / (1 + cos(pi / length)), slightly above the peak.
    """

    def share(k):
        angle = math.pi * (k if rise else jnp.minimum(k, length)) / length
        value = end + (1 - end) * (1 + jnp.cos(angle)) / 2
        if not recursive or length == 1:
            return value
        return jnp.where(k == 0, end + (1 - end) * 2 / (1 + math.cos(math.pi / length)), value)

    return share


def cosine_restarts(first: int, factor: int, end: float, total_steps: int) -> Curve:
    """A cosine over `first` updates, then again from the peak over `factor` times as many, and so on."""
    starts, length = [0], first
    while starts[-1] + length < max(total_steps, 1) and (factor > 1 or len(starts) < 2):
        starts.append(starts[-1] + length)
        length *= factor

    def share(k):
        if factor == 1:
            position, cycle = k % first, first
        else:
            i = jnp.searchsorted(np.asarray(starts), k, side="right") - 1
            position, cycle = k - jnp.asarray(starts)[i], first * factor**i
        return end + (1 - end) * (1 + jnp.cos(math.pi * position / cycle)) / 2

    return share


def exponential(rate: float, steps: int, staircase: bool = False) -> Curve:
    """rate^(k / steps), the exponent cut to whole numbers for a staircase."""

    def share(k):
        periods = k // steps if staircase else k / steps
        return jnp.asarray(rate, jnp.float32) ** periods

    return share
