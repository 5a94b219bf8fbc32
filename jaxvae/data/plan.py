"""The plan: which examples make up the batch at a step, as a pure function of (seed, step).

There is no iterator whose state would have to be saved: a run that resumes at step s asks for the batch at step
s, and several hosts ask the same plan for their own rows.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from jaxvae.data.source import Capacity, Source


class PlannedBatch(NamedTuple):
    """Examples of one batch; fewer than the batch size only in the last batch of a bucketed epoch."""

    capacity: Capacity
    indices: np.ndarray
    draws: np.ndarray


class Plan:
    """Every example once per epoch, in batches of similar size.

    The examples of an epoch are shuffled, ordered by the smallest capacity that holds them and cut into batches;
    the batches are shuffled again. A batch takes the capacity of its largest example, so at most one batch per
    capacity is wider than some of its examples need. The number of batches in an epoch is always
    ceil(examples / batch_size).

    Args:
      source: the data.
      batch_size: examples per batch.
      seed: of order and draws.
      shuffle: False keeps batches from small to large (evaluation).
      run_length: so many batches of one capacity follow each other, so that a device can take them at once.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, shuffle: bool = True, run_length: int = 1):
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
        self.run_length = run_length
        self.steps_per_epoch = -(-len(source) // batch_size)
        # Two epochs: a prefetching loader looks across the boundary.
        self._epoch = functools.lru_cache(maxsize=2)(self._plan_epoch)

    def batch(self, step: int) -> PlannedBatch:
        """The batch of update `step` (the first is 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[position]

    def _plan_epoch(self, epoch: int) -> list[PlannedBatch]:
        draws = self.source.draw(self.seed, epoch)
        bucket = _smallest_capacity(self.source.sizes(draws), self.source.capacities)
        rng = np.random.default_rng([self.seed, epoch, 1])
        order = rng.permutation(len(self.source)) if self.shuffle else np.arange(len(self.source))
        order = order[np.argsort(bucket[order], kind="stable")]
        batches = []
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            capacity = tuple(self.source.capacities[bucket[indices].max()])
            batches.append(PlannedBatch(capacity, indices, draws[indices]))
        if not self.shuffle:
            return batches
        runs = []
        for _, alike in itertools.groupby(batches, key=lambda batch: batch.capacity):
            alike = list(alike)
            runs += [alike[i : i + self.run_length] for i in range(0, len(alike), self.run_length)]
        return [batch for i in rng.permutation(len(runs)) for batch in runs[i]]


def partners(source: Source, draws: np.ndarray) -> np.ndarray:
    """For every example another one that fits into its capacity, chosen at random: int [n]; -1 where there is none.

    The examples of a capacity form one random cycle, so nothing is its own partner and everything is somebody's.
    An example that is alone in its capacity gets one of a smaller capacity.
    """
    bucket = _smallest_capacity(source.sizes(draws), source.capacities)
    partner = np.full(len(source), -1)
    rng = np.random.default_rng(0)
    for b in np.unique(bucket):
        members = rng.permutation(np.flatnonzero(bucket == b))
        partner[members] = np.roll(members, 1)
        smaller = np.flatnonzero(bucket < b)
        if len(members) == 1:
            partner[members] = rng.choice(smaller) if len(smaller) else -1
    return partner


def _smallest_capacity(sizes: np.ndarray, capacities) -> np.ndarray:
    """Index of the first capacity that holds each example [n]."""
    fits = (sizes[:, None, :] <= np.asarray(capacities)[None]).all(-1)
    if not fits[:, -1].all():
        worst = int(np.argmin(fits[:, -1]))
        raise ValueError(f"example {worst} of size {tuple(sizes[worst])} exceeds capacity {tuple(capacities[-1])}")
    return fits.argmax(1)
