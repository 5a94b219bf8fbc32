"""Averages of the weights: when they move, and how far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.config import ema_row
from jaxvae.train.averages import update_average, weight_at


def follow(row, values):
    """The average after each update, from a start far away, as the train step calls it."""
    step = jax.jit(lambda average, value, clock: update_average(average, value, row, clock))
    average, history = {"w": jnp.full((), -99.0)}, []
    for clock, value in enumerate(values, 1):
        average = step(average, {"w": jnp.float32(value)}, jnp.int32(clock))
        history.append(float(average["w"]))
    return history


def test_a_constant_decay_is_the_formula_to_the_last_bit():
    row = ema_row(0.9999)
    key = jax.random.key(0)
    average, params = jax.random.normal(key, (2, 1000))
    moved = update_average({"w": average}, {"w": params}, row, jnp.int32(7))["w"]
    np.testing.assert_array_equal(moved, average + np.float32(1 - 0.9999) * (params - average))


def test_a_constant_decay_costs_nothing_but_the_blend():
    """A tree of weights is large: no masks, no comparisons."""
    row, leaf = ema_row(0.99), jnp.ones(8)
    traced = jax.make_jaxpr(lambda a, p, clock: update_average(a, p, row, clock))(leaf, leaf, 1)
    assert [str(equation.primitive) for equation in traced.eqns] == ["sub", "mul", "add"]


def test_it_copies_until_its_start_and_then_moves_when_due():
    history = follow(ema_row(0.9, every=2, start=3), [1, 2, 3, 4, 5, 6, 7])
    # Due at updates 1, 3, 5, 7; copies at 1 and 3.
    fifth = 3 + 0.1 * (5 - 3)
    assert history == pytest.approx([1, 1, 3, 3, fifth, fifth, fifth + 0.1 * (7 - fifth)])


def test_without_a_start_it_blends_from_the_first_update_on():
    assert follow(ema_row(0.5), [1, 1, 1]) == pytest.approx([-49, -24, -11.5])


def test_a_copy_is_exact():
    values = np.random.default_rng(0).normal(size=30).astype(np.float32)
    assert follow(ema_row(0.999, start=30), values) == values.tolist()


def test_what_does_not_move_stays_exact():
    history = follow(ema_row(0.7, every=5), np.random.default_rng(0).normal(size=20))
    assert [history[i] for i in (1, 2, 3, 4)] == [history[0]] * 4
    assert len(set(history)) == 4


def test_early_averages_forget_faster():
    row = ema_row(0.9, start=3, power=0.5)
    ages = np.array([1, 2, 3, 99, 100, 1000])
    weights = [float(weight_at(row, 3 + age)) for age in ages]
    # (1 + age)^-1/2 until that is below 0.1, at an age of 99.
    np.testing.assert_allclose(weights, [2**-0.5, 3**-0.5, 0.5, 0.1, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("power", [0.0, 2 / 3])
def test_all_weights_of_an_average_are_shares(power):
    row = ema_row(0.99, every=3, start=4, power=power)
    weights = np.asarray(weight_at(row, jnp.arange(1, 50)))
    assert weights[:4].tolist() == [1, 0, 0, 1]
    assert ((weights >= 0) & (weights <= 1)).all()
    assert np.flatnonzero(weights).tolist() == list(range(0, 49, 3))


def test_a_constant_stays_what_it_is():
    for row in (ema_row(0.9), ema_row(0.9, 3, 2), ema_row(0.9, 1, 5, 0.6)):
        average = {"w": jnp.float32(1.7)}
        for clock in range(1, 20):
            average = update_average(average, {"w": jnp.float32(1.7)}, row, clock)
        assert average["w"] == jnp.float32(1.7)
