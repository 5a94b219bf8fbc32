"""Clipping by global norm, fixed and by percentile."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae.train.clipping import clip_by_global_norm, clip_by_percentile


def of_norm(norm):
    """Gradients of two arrays whose global norm is `norm`."""
    return {"a": jnp.full((2, 4), norm * 0.6 / math.sqrt(8)), "b": {"c": jnp.array([norm * 0.8])}}


def follow(clip, norms):
    """The norm after clipping of each of the gradients, and the limit in force for it."""
    state, found, update = clip.init(of_norm(1.0)), [], jax.jit(clip.update)
    for norm in norms:
        limit = float(state.limit)
        clipped, state = update(of_norm(norm), state)
        found.append((float(optax.tree.norm(clipped)), limit))
    return np.array(found).T


def test_gradients_within_the_limit_stay_as_they_are():
    clip = clip_by_global_norm(5.0)
    kept, _ = clip.update(of_norm(4.9), clip.init(None))
    jax.tree.map(np.testing.assert_array_equal, kept, of_norm(4.9))


def test_gradients_beyond_the_limit_keep_their_direction():
    clip = clip_by_global_norm(5.0)
    clipped, _ = clip.update(of_norm(20.0), clip.init(None))
    jax.tree.map(lambda c, g: np.testing.assert_allclose(c, g / 4, rtol=1e-6), clipped, of_norm(20.0))


def test_the_norm_is_padded_as_pytorch_pads_it():
    clip = clip_by_global_norm(1e-6)
    clipped, _ = clip.update(of_norm(1e-6), clip.init(None))
    assert float(optax.tree.norm(clipped)) == pytest.approx(1e-6 * 1e-6 / (1e-6 + 1e-6), rel=1e-5)


def test_gradients_of_nothing_stay_nothing():
    clip = clip_by_global_norm(5.0)
    clipped, _ = clip.update(of_norm(0.0), clip.init(None))
    jax.tree.map(np.testing.assert_array_equal, clipped, of_norm(0.0))


def test_the_limit_is_the_fixed_one_until_the_window_is_full():
    after, limit = follow(clip_by_percentile(50.0, 3, 10.0), [4.0, 2.0, 1.0, 20.0, 8.0])
    np.testing.assert_allclose(limit, [10, 10, 10, 2, 2], rtol=1e-6)  # medians of (4, 2, 1) and (20, 2, 1)
    np.testing.assert_allclose(after, [4, 2, 1, 2, 2], rtol=1e-5)


def test_the_percentile_is_interpolated_and_never_above_the_fixed_limit():
    _, limit = follow(clip_by_percentile(75.0, 4, 3.0), [1.0, 2.0, 3.0, 5.0, 9.0, 9.0])
    # 75 % of (1, 2, 3, 5) lies a quarter of the way from 3 to 5; that is 3.5, and more is not allowed.
    np.testing.assert_allclose(limit, 3.0, rtol=1e-6)
    _, limit = follow(clip_by_percentile(75.0, 4, 100.0), [1.0, 2.0, 3.0, 5.0, 9.0, 9.0])
    np.testing.assert_allclose(limit, [100, 100, 100, 100, 3.5, 6.0], rtol=1e-6)


def test_without_a_fixed_limit_nothing_is_clipped_at_first():
    after, limit = follow(clip_by_percentile(0.0, 2, math.inf), [1e6, 3.0, 7.0])
    assert limit.tolist() == [math.inf, math.inf, 3.0]
    np.testing.assert_allclose(after, [1e6, 3, 3], rtol=1e-5)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_norms_that_are_not_finite_are_not_remembered(bad):
    clip = clip_by_percentile(50.0, 2, 10.0)
    _, with_bad = follow(clip, [1.0, bad, 3.0, bad, 5.0, 1.0])
    _, without = follow(clip, [1.0, 3.0, 5.0, 1.0])
    np.testing.assert_array_equal(with_bad[[0, 2, 4, 5]], without)


@hypothesis.given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=20), st.sampled_from([10.0, 50.0, 95.0]))
@hypothesis.settings(max_examples=25)
def test_the_limit_follows_the_last_norms(norms, percentile):
    window, fixed = 4, 50.0
    after, limit = follow(clip_by_percentile(percentile, window, fixed), norms)
    for i, norm in enumerate(norms):
        last = norms[max(i - window, 0) : i]
        expected = min(np.percentile(last, percentile), fixed) if i >= window else fixed
        assert limit[i] == pytest.approx(expected, rel=1e-4)
        assert after[i] == pytest.approx(min(norm, expected), rel=1e-4)
