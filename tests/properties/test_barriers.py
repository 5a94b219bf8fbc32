"""A gradient that passed `materialize_gradient` is the same, and is computed once."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.nn.barriers import compiler_options, materialize_gradient


def with_barrier(x):
    return (materialize_gradient(jnp.sin(x)) ** 2).sum()


def without(x):
    return (jnp.sin(x) ** 2).sum()


X = jnp.linspace(-1, 1, 12).reshape(3, 4)


def test_values_and_gradients_are_those_without_it():
    np.testing.assert_array_equal(with_barrier(X), without(X))
    np.testing.assert_allclose(jax.grad(with_barrier)(X), jax.grad(without)(X), rtol=1e-6)
    # Forward mode, second derivatives and vmap pass as well.
    np.testing.assert_allclose(jax.hessian(with_barrier)(X[0]), jax.hessian(without)(X[0]), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(with_barrier))(X), jax.grad(without)(X), rtol=1e-6)


def test_the_compiler_keeps_it_under_our_options():
    compiled = jax.jit(jax.grad(with_barrier), compiler_options=compiler_options()).lower(X).compile()
    assert "opt-barrier" in compiled.as_text(), "XLA drops barriers: the name of its pass may have changed"
