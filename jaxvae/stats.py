"""Additive statistics: what a metric is until the very end.

A metric is never averaged before it is merged. It travels as a pair (total, weight), is merged by addition over
micro-batches, devices, hosts, steps and evaluation batches, and is divided once, when it is reported. So the
mean over a validation set does not depend on how the set was cut into batches, and masked or ragged examples
count with their true weight.

    stats = {"l1": Mean.of(abs_error, mask), "mu": Mean.of(mu, valid, axis=0)}
    total = merge(stats_of_batch_1, stats_of_batch_2)
    compute(total)["l1"]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Mean:
    """A weighted mean in two additive parts; `total` and `weight` are scalars or arrays of one shape.

    With `weight` = 1 for every batch a quantity that is simply counted can be carried too.
    """

    total: Any
    weight: Any

    @classmethod
    def of(cls, values, mask=None, axis=None) -> Mean:
        """The mean of `values` over `axis` (all axes when None) where `mask` is True.

        Args:
          values: any shape; reduced in float32.
          mask: True = counts, or non-negative weights; its shape is `values`' or a leading part of it, and it is
            repeated over the remaining axes. None counts everything.
          axis: the axes to reduce; the others stay (a vector of means).

        Raises:
          ValueError: if the mask's shape is not a leading part of `values`' shape.
        """
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            weight = jnp.ones_like(values)
        else:
            mask = jnp.asarray(mask)
            if mask.shape != values.shape[: mask.ndim]:
                raise ValueError(f"mask of shape {mask.shape} does not lead values of shape {values.shape}")
            mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
            weight = jnp.broadcast_to(mask, values.shape).astype(jnp.float32)
        # `where` and not a product alone: a NaN behind the mask must not come through as 0 * NaN.
        total = jnp.where(weight > 0, values * weight, 0.0)
        return cls(total.sum(axis), weight.sum(axis))

    @classmethod
    def per_batch(cls, value) -> Mean:
        """A quantity that exists once for a batch (a learning rate, a gradient's norm)."""
        value = jnp.asarray(value, jnp.float32)
        return cls(value, jnp.ones_like(value))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    def compute(self):
        """The mean; NaN where the weight is 0: nothing was counted, and a 0 would be a lie."""
        total, weight = np.asarray(self.total, np.float64), np.asarray(self.weight, np.float64)
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)


@flax.struct.dataclass
class Sum:
    """A count or a histogram: an array that is merged by addition and reported as it is."""

    total: Any

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def compute(self):
        return np.asarray(self.total, np.float64)


Stats = dict[str, Mean | Sum]


def merge(a: Stats, b: Stats) -> Stats:
    """Adds two statistics of the same names; works on devices (inside jit) and on the host."""
    if a.keys() != b.keys():
        raise ValueError(f"statistics of different names: {sorted(a.keys() ^ b.keys())}")
    return {name: a[name] + b[name] for name in a}


def accumulate(results: Iterable[Any]) -> Any:
    """Adds up statistics, or trees of them, on the host in float64; None if there are none.

    Each result is fetched only when the next one is at hand, that is, under way on the device: so the device does
    not wait for the host.
    """
    total = last = None
    for result in itertools.chain(results, [None]):
        if last is not None:
            host = to_host(last)
            total = host if total is None else jax.tree.map(np.add, total, host)
        last = result
    return total


def to_host(stats: Any) -> Any:
    """Fetches statistics, or trees of them, to float64 NumPy, in which long sums stay exact."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(stats))


def compute(stats: Stats) -> dict[str, np.ndarray]:
    """The values, divided at last: numbers or arrays in float64 by name."""
    return {name: value.compute() for name, value in stats.items()}


def scalars(stats: Stats, prefix: str = "") -> dict[str, float]:
    """The scalar entries as plain numbers, for logs; arrays and histograms are left out."""
    values = compute(stats)
    return {prefix + name: float(value) for name, value in values.items() if np.ndim(value) == 0}
