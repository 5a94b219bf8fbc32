"""Losses in additive parts: the free bits, their gradients, and class weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae import losses
from jaxvae.nn.gaussian import GaussianPosterior
from jaxvae.stats import Mean


def kl(values, valid, bits, mode):
    part = Mean.of(values, valid, axis=0)
    return losses.kl_with_free_bits(part, part, bits, mode)


VALUES = jnp.array([[0.1, 3.0, 0.0], [0.3, 5.0, 0.0]])
BOTH = jnp.array([True, True])


@pytest.mark.parametrize(
    ("bits", "mode", "value", "live"),
    [
        (0.0, "total", 4.2, [1, 1, 1]),
        (0.5, "per_dim", 0.5 + 4.0 + 0.5, [0, 1, 0]),
        (4.0, "total", 4.2, [1, 1, 1]),
        (5.0, "total", 5.0, [0, 0, 0]),
        (5.0, "per_dim", 15.0, [0, 0, 0]),
    ],
)
def test_a_floor_holds_the_value_and_stops_the_gradient_below_it(bits, mode, value, live):
    got, grad = jax.value_and_grad(kl)(VALUES, BOTH, bits, mode)
    assert got == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(grad, np.tile(np.array(live) / 2, (2, 1)), rtol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(["total", "per_dim"]), st.sampled_from([0.0, 0.3, 2.0]))
def test_micro_batches_add_up_under_a_floor(seed, mode, bits):
    rng = np.random.default_rng(seed)
    values = jnp.asarray(rng.exponential(0.5, (6, 4)), jnp.float32)
    valid = jnp.asarray(rng.random(6) < 0.7).at[0].set(True)
    whole = Mean.of(values, valid, axis=0)

    def sliced(values):
        cuts = [(values[i::3], valid[i::3]) for i in range(3)]
        return sum(losses.kl_with_free_bits(Mean.of(*cut, axis=0), whole, bits, mode) for cut in cuts)

    one, one_grad = jax.value_and_grad(kl)(values, valid, bits, mode)
    many, many_grad = jax.value_and_grad(sliced)(values)
    assert float(many) == pytest.approx(float(one), rel=1e-5)
    np.testing.assert_allclose(many_grad, one_grad, rtol=1e-5, atol=1e-7)


def test_an_empty_mean_is_zero_and_has_no_gradient():
    value, grad = jax.value_and_grad(lambda x: losses.share(Mean.of(x, jnp.zeros(2, bool)), jnp.zeros(())))(jnp.ones(2))
    assert value == 0 and (grad == 0).all()


def test_absent_classes_weigh_nothing_unless_asked():
    counts = np.array([0, 10, 30, 0])
    weight = losses.inverse_frequency_weights(counts)
    assert weight[0] == weight[3] == 0
    assert weight[1] / weight[2] == pytest.approx(3, rel=1e-3)
    assert weight[1:3].mean() == pytest.approx(1)
    original = losses.inverse_frequency_weights(counts, weigh_absent=True)
    assert original[0] > 1e3 * original[1]


def test_the_warm_up_depends_on_the_step_alone():
    steps = jnp.array([0, 1, 5, 10, 99])
    np.testing.assert_allclose(losses.linear_warmup(steps, 10, 0.5), [0, 0.05, 0.25, 0.5, 0.5], rtol=1e-6)
    assert losses.linear_warmup(1, 0, 0.5) == 0.5


def test_kl_of_the_prior_is_zero_and_agrees_with_a_sum_over_samples():
    zero = GaussianPosterior(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3, bool))
    np.testing.assert_array_equal(zero.kl(), 0)
    q = GaussianPosterior(jnp.array([0.7]), jnp.array([-1.2]), jnp.zeros(1, bool))
    z = q.sample(jax.random.normal(jax.random.key(0), (200_000, 1)))
    std = jnp.exp(0.5 * q.logvar)
    ratio = -0.5 * ((z - q.mean) / std) ** 2 - jnp.log(std) + 0.5 * z**2
    assert float(ratio.mean()) == pytest.approx(float(q.kl()[0]), rel=0.02)


def test_the_clamp_is_hard_and_counted():
    q = GaussianPosterior.from_parameters(jnp.zeros(3), jnp.array([-11.0, 0.0, 12.0]), (-10.0, 10.0))
    np.testing.assert_array_equal(q.logvar, [-10, 0, 10])
    np.testing.assert_array_equal(q.clamped, [True, False, True])
