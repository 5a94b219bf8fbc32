"""Dynamic loss scaling."""

import jax
import jax.numpy as jnp
import pytest

from jaxvae.config import trainer_config
from jaxvae.train.loss_scale import init_loss_scale, update_loss_scale


def follow(finite, **keys):
    """[(scale, good)] after each update."""
    row = trainer_config().precision.loss_scale
    row.update({"init": 16.0, "growth_factor": 2.0, "growth_interval": 3, "backoff_factor": 0.5} | keys)
    update = jax.jit(lambda state, ok: update_loss_scale(state, ok, row))
    state, history = init_loss_scale(row), []
    for ok in finite:
        state = update(state, jnp.bool_(ok))
        history.append((float(state["scale"]), int(state["good"])))
    return history


def test_it_grows_after_so_many_good_updates_in_a_row():
    assert follow([True] * 7) == [(16, 1), (16, 2), (32, 0), (32, 1), (32, 2), (64, 0), (64, 1)]


def test_an_overflow_shrinks_it_and_restarts_the_count():
    assert follow([True, True, False, True, True, True]) == [(16, 1), (16, 2), (8, 0), (8, 1), (8, 2), (16, 0)]


def test_it_stays_within_its_limits():
    assert [scale for scale, _ in follow([True] * 9, max=40.0)] == [16, 16, 32, 32, 32, 40, 40, 40, 40]
    assert [scale for scale, _ in follow([False] * 4, min=3.0)] == [8, 4, 3, 3]


def test_it_can_grow_a_little_with_every_update():
    history = follow([True, True, False, True], growth_factor=2**0.001, growth_interval=1)
    exponents = [4.001, 4.002, 3.002, 3.003]
    assert [scale for scale, _ in history] == pytest.approx([2**exponent for exponent in exponents], rel=1e-6)
    assert {good for _, good in history} == {0}


def test_a_shorter_interval_takes_effect_at_once():
    """A run may go on with another interval than the one under which it counted."""
    row = trainer_config().precision.loss_scale
    row.update({"growth_interval": 2, "growth_factor": 2.0})
    state = update_loss_scale({"scale": jnp.float32(8), "good": jnp.int32(1000)}, True, row)
    assert (float(state["scale"]), int(state["good"])) == (16, 0)


def test_the_state_keeps_its_types():
    row = trainer_config().precision.loss_scale
    state = init_loss_scale(row)
    after = update_loss_scale(state, jnp.bool_(True), row)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
