"""Optimizer, schedules, averages and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from jaxvae.train.optim import kernels, make_optimizer, make_schedule
from jaxvae.train.step import update_ema

TASK = "glyph_vae"


def schedule(total=100, **changes):
    config = tiny_config(TASK, optim__lr=1.0, **{f"optim__schedule__{k}": v for k, v in changes.items()})
    made = make_schedule(config, total)
    return np.array([float(made(step)) for step in range(total)])


def test_warm_up_is_linear_and_reaches_the_full_rate_with_its_last_update():
    lr = schedule(name="constant", warmup_steps=10)
    np.testing.assert_allclose(lr[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert (lr[10:] == 1).all()


def test_cosine_ends_at_its_factor():
    lr = schedule(name="cosine", warmup_steps=0, end_factor=0.1)
    assert lr[0] == 1 and lr[-1] == pytest.approx(0.1, abs=1e-3)
    assert (np.diff(lr) < 0).all()
    np.testing.assert_allclose(lr[50], 0.55, atol=1e-6)


def test_exponential_and_step_halve_per_decay_steps():
    smooth = schedule(name="exponential", warmup_steps=0, decay_rate=0.5, decay_steps=20)
    stairs = schedule(name="step", warmup_steps=0, decay_rate=0.5, decay_steps=20)
    np.testing.assert_allclose(smooth, 0.5 ** (np.arange(100) / 20), rtol=1e-5)
    np.testing.assert_allclose(stairs, 0.5 ** (np.arange(100) // 20), rtol=1e-6)


def test_weight_decay_spares_biases_norms_and_tables():
    leaves = ("kernel", "bias", "scale", "embedding")
    assert kernels({"layer": dict.fromkeys(leaves, jnp.ones(2))})["layer"] == {
        "kernel": True,
        "bias": False,
        "scale": False,
        "embedding": False,
    }


def direction(name, weight_decay, grad=2.0, param=10.0, decay_on="kernels"):
    config = tiny_config(
        TASK,
        optim__name=name,
        optim__weight_decay=weight_decay,
        optim__clip__norm=0.0,
        optim__decay_on=decay_on,
    )
    optimizer = make_optimizer(config)
    params = {"kernel": jnp.array([param]), "bias": jnp.array([param])}
    moved, _ = optimizer.update(jax.tree.map(lambda p: p * 0 + grad, params), optimizer.init(params), params)
    return float(moved["kernel"][0]), float(moved["bias"][0])


def test_adamw_decays_beside_the_gradient_and_adam_within_it():
    assert direction("adamw", 0.1) == pytest.approx((1 + 0.1 * 10, 1.0), rel=1e-5)
    # Within: the sign of gradient + decay is all that Adam's first step keeps.
    assert direction("adam", 0.1) == pytest.approx((1.0, 1.0), rel=1e-5)
    assert direction("adam", 0.1, grad=-0.5)[0] == pytest.approx(1.0, rel=1e-5)
    assert direction("sgd", 0.1) == pytest.approx((2 + 0.1 * 10, 2.0), rel=1e-5)


def test_weight_decay_on_all_takes_the_biases_too():
    assert direction("sgd", 0.1, decay_on="all") == pytest.approx((3.0, 3.0), rel=1e-5)


def test_clipping_is_part_of_the_chain():
    config = tiny_config(TASK, optim__name="sgd", optim__clip__norm=1.0)
    optimizer = make_optimizer(config)
    params = {"kernel": jnp.zeros(4)}
    moved, _ = optimizer.update({"kernel": jnp.full(4, 10.0)}, optimizer.init(params), params)
    assert float(jnp.linalg.norm(moved["kernel"])) == pytest.approx(1.0, rel=1e-5)


def test_an_average_starts_late_and_moves_every_few_updates():
    row = tiny_config(TASK).optim.ema.average
    row = row.copy_and_resolve_references()
    row.decay, row.every, row.start = 0.9, 2, 3
    average, history = {"w": jnp.zeros(())}, []
    for step in range(1, 9):
        average = update_ema(average, {"w": jnp.float32(step)}, row, step)
        history.append(float(average["w"]))
    # A copy up to update 3, then blended at updates 4, 6 and 8.
    expected = [1, 2, 3, 3 + 0.1 * 1, 3.1, 3.1 + 0.1 * (6 - 3.1)]
    np.testing.assert_allclose(history[:6], expected, rtol=1e-6)
    assert history[6] == history[5]
    assert history[7] == pytest.approx(history[6] + 0.1 * (8 - history[6]))
