"""Planned batches as arrays, prepared ahead by threads in the order of the plan."""

import collections
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxvae.data.plan import Plan, PlannedBatch


def assemble(plan: Plan, planned: PlannedBatch, rows: int) -> dict[str, np.ndarray]:
    """The arrays of a planned batch, padded to `rows` examples.

    Adds `valid` (bool [rows], False = padding) and `index` (int32 [rows], the example's place in the source).
    Padding rows repeat the first example: finite, and masked by `valid` wherever they could count.
    """
    count = len(planned.indices)
    examples = [plan.source.load(int(i), int(d)) for i, d in zip(planned.indices, planned.draws, strict=True)]
    examples += [examples[0]] * (rows - count)
    batch = plan.source.collate(examples, planned.capacity)
    batch["valid"] = np.arange(rows) < count
    batch["index"] = np.resize(planned.indices, rows).astype(np.int32)
    return batch


class Loader:
    """Iterates over the batches of `plan` from step `start` up to `stop`, `workers` of them in preparation.

    The order is the plan's whatever the number of workers. `waited` holds the seconds that the consumer has spent
    waiting for data.
    """

    def __init__(self, plan: Plan, rows: int, start: int, stop: int, workers: int):
        self.plan, self.rows, self.start, self.stop, self.workers = plan, rows, start, stop, workers
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        def make(step):
            return assemble(self.plan, self.plan.batch(step), self.rows)

        with ThreadPoolExecutor(self.workers, thread_name_prefix="loader") as pool:
            ahead = collections.deque()
            try:
                for step in range(self.start, self.stop):
                    while len(ahead) <= self.workers and step + len(ahead) < self.stop:
                        ahead.append(pool.submit(make, step + len(ahead)))
                    since = time.perf_counter()
                    batch = ahead.popleft().result()
                    self.waited += time.perf_counter() - since
                    yield step, batch
            finally:
                for future in ahead:
                    future.cancel()
