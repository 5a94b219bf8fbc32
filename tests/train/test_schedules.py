"""Learning rates as shares of the peak, by hand and against their own definitions."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.config import trainer_config
from jaxvae.train.schedules import make_schedule


def shares(updates=100, total_steps=100, **keys):
    """The share of each of `updates` updates under `optim.schedule` with these keys."""
    config = trainer_config()
    config.optim.schedule.update(keys)
    return np.asarray(make_schedule(config, total_steps)(jnp.arange(updates)))


CURVES = [
    {"name": "constant"},
    {"name": "cosine", "end_factor": 0.1},
    {"name": "cosine", "steps": 30, "past_end": "rise"},
    {"name": "cosine", "warmup_steps": 5, "torch_recursion": True},
    {"name": "cosine_restarts", "decay_steps": 7, "restart_factor": 1},
    {"name": "cosine_restarts", "decay_steps": 7, "restart_factor": 3},
    {"name": "exponential", "decay_steps": 20},
    {"name": "step", "decay_steps": 20, "warmup_steps": 5, "warmup_factor": 0.2},
]


@pytest.mark.parametrize("keys", CURVES, ids=lambda keys: "-".join(map(str, keys.values())))
def test_a_share_is_one_float32_whether_traced_or_not(keys):
    config = trainer_config()
    config.optim.schedule.update(keys)
    share = make_schedule(config, 100)
    traced = jax.jit(share)
    for clock, expected in enumerate(shares(40, **keys)):
        got = traced(jnp.int32(clock))
        assert got.dtype == jnp.float32 and got.shape == ()
        assert float(got) == pytest.approx(float(expected), abs=1e-6)
        assert float(share(clock)) == pytest.approx(float(expected), abs=1e-6)


def test_warm_up_reaches_the_peak_with_its_last_update():
    found = shares(warmup_steps=10)
    np.testing.assert_allclose(found[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert (found[10:] == 1).all()


def test_warm_up_from_a_share_reaches_the_peak_with_the_update_after_it():
    found = shares(warmup_steps=4, warmup_factor=0.2)
    np.testing.assert_allclose(found[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
    assert (found[5:] == 1).all()


@pytest.mark.parametrize("keys", [keys for keys in CURVES if "warmup_steps" not in keys], ids=lambda keys: keys["name"])
def test_a_curve_begins_after_the_warm_up_as_it_would_without(keys):
    keys = keys | {"steps": 40}
    np.testing.assert_allclose(shares(60, **keys, warmup_steps=9)[9:], shares(51, **keys), rtol=1e-6)


def test_cosine_falls_to_its_end_at_the_end_of_the_run():
    found = shares(131, name="cosine", warmup_steps=20, end_factor=0.1, total_steps=120)
    assert found[20] == 1
    assert (np.diff(found[20:121]) < 0).all()
    np.testing.assert_allclose(
        found[[45, 70, 95]], 0.1 + 0.9 * np.array([2 + math.sqrt(2), 2, 2 - math.sqrt(2)]) / 4, rtol=1e-5
    )
    np.testing.assert_allclose(found[120:], 0.1, rtol=1e-6)


def test_cosine_of_its_own_length_stays_at_its_end_or_rises_again():
    hold = shares(name="cosine", steps=30, end_factor=0.01)
    rise = shares(name="cosine", steps=30, end_factor=0.01, past_end="rise")
    np.testing.assert_array_equal(hold[:31], rise[:31])
    np.testing.assert_allclose(hold[30:], 0.01, rtol=1e-5)
    np.testing.assert_allclose(rise[30:61], rise[:31][::-1], rtol=1e-4)
    np.testing.assert_allclose(rise[60:], rise[:40], rtol=1e-4)


def test_torch_recursion_changes_the_first_value_after_a_warm_up_alone():
    keys = {"name": "cosine", "end_factor": 0.5, "warmup_steps": 10}
    plain, recursive = shares(**keys), shares(**keys, torch_recursion=True)
    assert np.flatnonzero(plain != recursive).tolist() == [10]
    # torch: lr <- end + (lr - end) (1 + cos(pi k / T)) / (1 + cos(pi (k - 1) / T)), from lr = 1 at k = 0
    lr = [1.0]
    for k in range(90):
        lr.append(0.5 + (lr[-1] - 0.5) * (1 + math.cos(math.pi * k / 90)) / (1 + math.cos(math.pi * (k - 1) / 90)))
    assert recursive[10] == pytest.approx(lr[1], rel=1e-6) and lr[1] > 1
    without_warmup = keys | {"warmup_steps": 0}
    np.testing.assert_array_equal(shares(**without_warmup), shares(**without_warmup, torch_recursion=True))


def test_torch_recursion_of_one_update_is_finite():
    assert np.isfinite(shares(3, total_steps=3, name="cosine", warmup_steps=2, torch_recursion=True)).all()


@pytest.mark.parametrize(("factor", "starts"), [(1, [0, 4, 8, 12, 16]), (2, [0, 4, 12, 28, 60]), (3, [0, 4, 16, 52])])
def test_restarts_begin_anew_from_the_peak(factor, starts):
    found = shares(name="cosine_restarts", decay_steps=4, restart_factor=factor, end_factor=0.2)
    peaks = np.flatnonzero(found == 1).tolist()
    assert peaks[: len(starts)] == starts
    for begin, end in itertools.pairwise(peaks):
        one = shares(end - begin, name="cosine", steps=end - begin, end_factor=0.2)
        np.testing.assert_allclose(found[begin:end], one, rtol=1e-5)


def test_restarts_go_on_beyond_the_length_of_the_run():
    keys = {"name": "cosine_restarts", "decay_steps": 4, "restart_factor": 2}
    np.testing.assert_array_equal(shares(200, total_steps=10, **keys), shares(200, total_steps=200, **keys))


def test_exponential_and_step_halve_per_decay_steps():
    keys = {"decay_rate": 0.5, "decay_steps": 20}
    np.testing.assert_allclose(shares(name="exponential", **keys), 0.5 ** (np.arange(100) / 20), rtol=1e-6)
    np.testing.assert_allclose(shares(name="step", **keys), 0.5 ** (np.arange(100) // 20), rtol=1e-6)


def test_exponential_is_right_after_many_updates():
    config = trainer_config()
    config.optim.schedule.update({"name": "exponential", "decay_rate": 0.9999, "decay_steps": 1})
    assert float(make_schedule(config, 1)(jnp.int32(50_000))) == pytest.approx(0.9999**50_000, rel=1e-5)
