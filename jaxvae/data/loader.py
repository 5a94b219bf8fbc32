"""Planned batches as arrays, prepared ahead by threads in the order of the plan."""

import collections
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxvae.data.plan import Plan, PlannedBatch


def assemble(plan: Plan, planned: PlannedBatch, rows: int, part: slice = slice(None)) -> dict[str, np.ndarray]:
    """The arrays of a planned batch, padded to `rows` examples; of these the rows `part`, others are not loaded.

    Adds `valid` (bool [rows], False = padding) and `index` (int32 [rows], the example's place in the source).
    Padding rows repeat the first example: finite, and masked by `valid` wherever they could count.
    """
    count = len(planned.indices)
    place = np.where(np.arange(rows) < count, np.arange(rows), 0)[part]
    loaded = {i: plan.source.load(int(planned.indices[i]), int(planned.draws[i])) for i in np.unique(place).tolist()}
    batch = plan.source.collate([loaded[i] for i in place.tolist()], planned.capacity)
    batch["valid"] = (np.arange(rows) < count)[part]
    batch["index"] = planned.indices[place].astype(np.int32)
    return batch


class Loader:
    """Iterates over the batches of `plan` in `blocks` of steps, some of them in preparation.

    A block of one step is a batch; one of several steps is their batches stacked along a new first axis. The order is
    that of the blocks whatever the number of workers. `waited` holds the seconds that the consumer has spent waiting
    for data.

    Args:
      plan: what the batch of a step is.
      rows: examples of a padded batch.
      blocks: steps that are wanted together, all of one capacity.
      workers: threads, and blocks in preparation beside the one in use.
      part: the rows that this process needs.
    """

    def __init__(self, plan: Plan, rows: int, blocks: Iterable[range], workers: int, part: slice = slice(None)):
        self.plan, self.rows, self.blocks, self.workers, self.part = plan, rows, blocks, workers, part
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[range, dict[str, np.ndarray]]]:
        blocks = iter(self.blocks)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="loader") as pool:
            ahead: collections.deque = collections.deque()
            try:
                while True:
                    while len(ahead) <= self.workers and (block := next(blocks, None)) is not None:
                        ahead.append((block, pool.submit(self._make, block)))
                    if not ahead:
                        return
                    since = time.perf_counter()
                    block, future = ahead.popleft()
                    batch = future.result()
                    self.waited += time.perf_counter() - since
                    yield block, batch
            finally:
                for _, future in ahead:
                    future.cancel()

    def _make(self, block: range) -> dict[str, np.ndarray]:
        batches = [assemble(self.plan, self.plan.batch(step), self.rows, self.part) for step in block]
        return batches[0] if len(block) == 1 else {name: np.stack([b[name] for b in batches]) for name in batches[0]}


def single_steps(start: int, stop: int) -> Iterator[range]:
    """Blocks of one step each."""
    return (range(step, step + 1) for step in range(start, stop))


def blocks(plan: Plan, start: int, stop: int, size: int, intervals: Iterable[int]) -> Iterator[range]:
    """Blocks of `size` steps of one capacity wherever there are so many, of one step elsewhere.

    No block goes beyond a multiple of one of the `intervals`, after which something happens between two steps. A block
    depends on where it begins and on nothing before, so a run that resumes after any of them has the same ones.
    """
    intervals, step = [n for n in intervals if n], start
    while step < stop:
        whole = range(step, step + size)
        interrupted = any(later % n == 0 for later in whole[1:] for n in intervals)
        fits = whole.stop <= stop and not interrupted
        alike = fits and len({plan.batch(s).capacity for s in whole}) == 1
        block = whole if alike else range(step, step + 1)
        yield block
        step = block.stop
