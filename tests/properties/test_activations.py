"""GELU against its definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.nn.activations import gelu

X = np.linspace(-8, 8, 401, dtype=np.float32)


def test_gelu_is_x_times_the_normal_distribution():
    want = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in X.astype(float)]
    np.testing.assert_allclose(gelu(jnp.asarray(X)), want, atol=1e-6)


def test_its_gradient_is_that_of_the_definition():
    want = [
        0.5 * (1 + math.erf(x / math.sqrt(2))) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        for x in X.astype(float)
    ]
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(X)), want, atol=1e-6)


def test_gelu_keeps_the_type():
    assert gelu(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
