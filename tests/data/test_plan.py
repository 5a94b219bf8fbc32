"""The plan and the loader, on a source of numbers."""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae.data.loader import Loader, assemble, blocks, single_steps
from jaxvae.data.plan import Plan, partners


class Numbers:
    """Example i is a list of `size` copies of i; the draw adds to its size."""

    capacities = ((4,), (8,), (12,))
    fingerprint = "numbers"
    skipped: ClassVar = {}

    def __init__(self, sizes):
        self._sizes = np.asarray(sizes)

    def __len__(self):
        return len(self._sizes)

    def name(self, index):
        return str(index)

    def draw(self, seed, epoch):
        return np.random.default_rng([seed, epoch]).integers(0, 3, len(self))

    def sizes(self, draws):
        return (self._sizes + draws)[:, None]

    def load(self, index, draw):
        return {"x": np.full(self._sizes[index] + draw, index, np.float32)}

    def collate(self, examples, capacity):
        out = np.full((len(examples), capacity[0]), -1, np.float32)
        for row, example in zip(out, examples, strict=True):
            row[: len(example["x"])] = example["x"]
        return {"x": out}


sizes = st.lists(st.integers(1, 10), min_size=1, max_size=40)


@settings(max_examples=50)
@given(sizes, st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_holds_every_example_once_in_a_capacity_that_fits(sizes, batch_size, seed):
    plan = Plan(Numbers(sizes), batch_size, seed)
    for epoch in (0, 3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [plan.batch(step) for step in steps]
        assert sorted(np.concatenate([b.indices for b in batches])) == list(range(len(sizes)))
        for b in batches:
            assert (plan.source._sizes[b.indices] + b.draws).max() <= b.capacity[0]
            assert len(b.indices) <= batch_size


@settings(max_examples=25)
@given(sizes, st.integers(1, 5), st.integers(0, 50))
def test_a_batch_is_a_pure_function_of_seed_and_step(sizes, batch_size, step):
    one, two = (Plan(Numbers(sizes), batch_size, seed=3) for _ in range(2))
    one.batch(0), one.batch(step + 1)  # what was asked before does not matter
    np.testing.assert_array_equal(one.batch(step).indices, two.batch(step).indices)
    np.testing.assert_array_equal(one.batch(step).draws, two.batch(step).draws)


def test_epochs_and_seeds_differ():
    def order(seed, epoch):
        plan = Plan(Numbers([3] * 64), 8, seed)
        return [tuple(plan.batch(epoch * 8 + i).indices) for i in range(8)]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_evaluation_goes_from_small_to_large():
    plan = Plan(Numbers([9, 1, 5, 1, 9, 5, 1]), 3, seed=0, shuffle=False)
    capacities = [plan.batch(i).capacity for i in range(plan.steps_per_epoch)]
    assert capacities == sorted(capacities)


def test_an_example_that_fits_nowhere_is_an_error():
    with pytest.raises(ValueError, match="exceeds capacity"):
        Plan(Numbers([30]), 1, seed=0).batch(0)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_loader_keeps_the_order_and_pads_with_masked_rows(workers):
    plan = Plan(Numbers([1, 2, 3, 4, 5]), 2, seed=0)
    seen = list(Loader(plan, rows=4, blocks=single_steps(1, 7), workers=workers))
    assert [step for block, _ in seen for step in block] == list(range(1, 7))
    for (step,), batch in seen:
        expected = assemble(plan, plan.batch(step), 4)
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name], array)
        assert batch["valid"].sum() == len(plan.batch(step).indices)
        np.testing.assert_array_equal(batch["x"][batch["valid"], 0], batch["index"][batch["valid"]])


def test_a_process_loads_its_own_rows_and_no_others():
    loaded = []

    class Watched(Numbers):
        def load(self, index, draw):
            loaded.append(index)
            return super().load(index, draw)

    plan = Plan(Watched([1, 2, 3, 4, 5]), 3, seed=0)
    whole = assemble(plan, plan.batch(0), 4)
    loaded.clear()
    part = assemble(plan, plan.batch(0), 4, slice(2, 4))
    # The third example, and the first, which the padding repeats.
    assert sorted(loaded) == sorted(plan.batch(0).indices[[2, 0]].tolist())
    for name, array in part.items():
        np.testing.assert_array_equal(array, whole[name][2:4])


def test_runs_of_one_capacity_follow_each_other():
    source = Numbers(np.random.default_rng(0).integers(1, 11, 60).tolist())
    plan, single = Plan(source, 2, seed=0, run_length=4), Plan(source, 2, seed=0)
    assert len(list(blocks(plan, 0, 60, 4, []))) < len(list(blocks(single, 0, 60, 4, [])))
    # The same batches in another order.
    epochs = [[sorted(p.batch(step).indices.tolist()) for step in range(30)] for p in (plan, single)]
    assert sorted(epochs[0]) == sorted(epochs[1])


def test_blocks_hold_one_capacity_and_end_at_intervals():
    source = Numbers(np.random.default_rng(0).integers(1, 11, 60).tolist())
    plan = Plan(source, 2, seed=0, run_length=4)
    found = list(blocks(plan, 0, 100, 4, [10, 0]))
    assert [step for block in found for step in block] == list(range(100))
    assert {len(block) for block in found} == {1, 4}
    for block in found:
        assert len({plan.batch(step).capacity for step in block}) == 1
        assert not any(step % 10 == 0 for step in block[1:])
    # From the end of any of them the rest is the same: a run that resumes there makes the same blocks.
    for i, block in enumerate(found):
        assert list(blocks(plan, block.start, 100, 4, [10, 0])) == found[i:]


def test_blocks_of_several_batches_are_stacked():
    plan = Plan(Numbers([1] * 6), 2, seed=0)
    ((block, batch),) = Loader(plan, 2, [range(0, 3)], 1)
    assert len(block) == 3
    for step in block:
        for name, array in assemble(plan, plan.batch(step), 2).items():
            np.testing.assert_array_equal(batch[name][step], array)


def test_an_error_in_a_worker_reaches_the_consumer():
    class Broken(Numbers):
        def load(self, index, draw):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        list(Loader(Plan(Broken([1, 2]), 1, seed=0), 1, single_steps(0, 2), 2))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_partners_are_others_that_fit(sizes):
    source = Numbers(sizes)
    none = np.zeros(len(sizes), int)
    found = partners(source, none)
    bucket = (np.asarray(sizes) - 1) // 4
    for i, other in enumerate(found):
        if other < 0:
            assert (bucket[np.arange(len(sizes)) != i] > bucket[i]).all(), f"{i} could have had one"
        else:
            assert other != i and bucket[other] <= bucket[i]
    for b, count in zip(*np.unique(bucket, return_counts=True), strict=True):
        if count > 1:
            assert sorted(found[bucket == b]) == sorted(np.flatnonzero(bucket == b)), "each is used once"
    np.testing.assert_array_equal(found, partners(source, none))
