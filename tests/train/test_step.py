"""What the train step promises beside the battery of tests/test_tasks.py."""

import jax
import jax.numpy as jnp
import numpy as np
from test_tasks import Bench

from jaxvae.stats import compute, merge
from jaxvae.train.step import split_micro, sum_over

TASK = "glyph_vae"


def test_an_update_that_is_not_finite_changes_nothing_but_the_step():
    b = Bench(TASK)
    step = b.step()
    poisoned = dict(b.batch, coords=np.full_like(b.batch["coords"], np.nan))
    state, stats = step(b.state, poisoned)
    assert compute(stats)["skipped"] == 1
    assert compute(stats)["lr"] > 0, "known, whatever the gradient"
    clean = step(b.state, b.batch)[1]
    assert compute(merge(clean, stats))["loss"] == compute(clean)["loss"], "the interval's row stays readable"
    assert state.step == b.state.step + 1 and state.updates == b.state.updates and state.skips == 1
    unchanged = ("params", "opt_state", "ema", "collections")
    jax.tree.map(
        np.testing.assert_array_equal,
        [getattr(state, name) for name in unchanged],
        [getattr(b.state, name) for name in unchanged],
    )
    # And it learns again from the next batch.
    state, stats = step(state, b.batch)
    assert compute(stats)["skipped"] == 0 and state.skips == 0 and state.updates == 1
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (state.params, b.state.params)), strict=True))


def test_the_step_is_a_pure_function_of_state_and_batch():
    b = Bench(TASK)
    step = b.step()
    (one, _), (two, _) = step(b.state, b.batch), step(b.state, b.batch)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_noise_differs_between_steps_and_examples():
    b = Bench(TASK)
    task, drawn = b.task, []

    class Spy(type(task)):
        def draws(self, keys, batch):
            draws = super().draws(keys, batch)
            jax.debug.callback(lambda eps: drawn.append(np.asarray(eps)), draws["eps"])
            return draws

    b.task = Spy(b.config)
    step, state = b.step(), b.state
    for _ in range(2):
        state, _ = step(state, b.batch)
    jax.effects_barrier()
    first, second = drawn
    assert not np.allclose(first, second)
    assert len(np.unique(first[:, 0])) == len(first)


def test_micro_batches_take_strided_rows():
    parts = split_micro(jnp.arange(6), 3)
    np.testing.assert_array_equal(parts, [[0, 3], [1, 4], [2, 5]])
    assert sum_over(lambda x: x.sum(), parts) == 15
