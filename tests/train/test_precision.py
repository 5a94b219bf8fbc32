"""What is computed in float32 whatever the products' type, and what float16 needs beside."""

import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from half import delicate_in_half
from test_tasks import Bench
from tiny import tiny_config

from jaxvae import losses
from jaxvae.errors import UserError
from jaxvae.nn.attention import attention
from jaxvae.nn.broadcast import add_broadcast
from jaxvae.nn.dense import Dense
from jaxvae.nn.embedding import embedding
from jaxvae.nn.gaussian import GaussianPosterior
from jaxvae.nn.norms import LayerNorm
from jaxvae.stats import Mean, compute
from jaxvae.tasks import TASKS
from jaxvae.tasks.task import Aux
from jaxvae.train.build import build
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.state import State
from jaxvae.train.step import loss_and_grads

pytestmark = pytest.mark.usefixtures("toys")

MANY = 5001  # more than half precision can count
HALF = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])


def random(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


# Parts


def test_the_search_for_delicate_operations_finds_them():
    half = jnp.ones((4, 3), jnp.bfloat16)
    found = delicate_in_half(jax.grad(lambda b: (half + b.astype(half.dtype)).astype(jnp.float32).sum()), jnp.ones(3))
    assert [name.split()[:2] for name in found] == [["reduce_sum", "bfloat16[4,3]"]]
    found = delicate_in_half(jax.jit(jax.nn.softmax), half)
    assert {name.split()[0] for name in found} == {"reduce_max"}
    assert not delicate_in_half(jax.nn.softmax, half.astype(jnp.float32))


@HALF
def test_softmax_is_float32(dtype):
    q, k, v = (random(1, 1, 16, 8).astype(dtype) * 3 for _ in range(3))
    wide = [x.astype(jnp.float32) for x in (q, k, v)]

    def loss(q, k, v):
        return (attention(q, k, v).astype(jnp.float32) ** 2).sum()

    assert not delicate_in_half(jax.grad(loss, (0, 1, 2)), q, k, v)
    # Of the result only products and the last rounding are coarse: two units in the last place, no more.
    np.testing.assert_allclose(attention(q, k, v), attention(*wide), rtol=2 * jnp.finfo(dtype).eps, atol=1e-2)
    # A flat softmax over many keys: in bfloat16 the sum of 5001 ones would be 256, and the mean 20.
    many = jnp.ones((1, 1, MANY, 1), dtype)
    assert attention(many[:, :, :1], many, many) == 1


@HALF
def test_statistics_of_norms_are_float32(dtype):
    x = (random(4, 64) + 30).astype(dtype)
    norm = LayerNorm(dtype=dtype)
    variables = norm.init(jax.random.key(0), x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert not delicate_in_half(jax.grad(lambda v: norm.apply(v, x).astype(jnp.float32).sum()), variables)
    got, want = norm.apply(variables, x), LayerNorm().apply(variables, x.astype(jnp.float32))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=jnp.finfo(dtype).eps, atol=1e-6)


@HALF
def test_kl_is_float32(dtype):
    """In bfloat16 that of mean = logvar = 0.01 comes out negative."""
    parameters = jnp.full((2, 3), 0.01, dtype)
    posterior = GaussianPosterior.from_parameters(parameters, parameters, (-10.0, 10.0))
    exact = float(parameters[0, 0].astype(float))
    assert posterior.kl().dtype == jnp.float32
    np.testing.assert_allclose(posterior.kl(), 0.5 * (np.expm1(exact) - exact + exact**2), rtol=1e-3)


@HALF
def test_losses_are_float32(dtype):
    logits, labels = (5 * random(6, 9)).astype(dtype), jnp.arange(6)
    nll = losses.cross_entropy(logits, labels)
    assert nll.dtype == jnp.float32 and not delicate_in_half(losses.cross_entropy, logits, labels)
    np.testing.assert_array_equal(nll, losses.cross_entropy(logits.astype(jnp.float32), labels))


@HALF
def test_counts_and_means_are_float32(dtype):
    ones = jnp.ones(MANY, dtype)
    for mean in (Mean.of(ones), Mean.of(ones, ones), Mean.of(ones, ones > 0)):
        assert (float(mean.total), float(mean.weight)) == (MANY, MANY)


class Table(nn.Module):
    """Two rows of three numbers."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids):
        return embedding(2, 3, self.dtype, "table")(ids)


@HALF
def test_gradients_are_summed_in_float32(dtype):
    """Of a bias over all rows, of a table's row over all uses, of what is repeated over all repetitions."""
    x = jnp.ones((MANY, 2))
    dense = Dense(3, dtype)
    weights = dense.init(jax.random.key(0), x)
    bias = jax.jit(jax.grad(lambda v: dense.apply(v, x).astype(jnp.float32).sum()))(weights)["params"]["bias"]
    assert bias.tolist() == [MANY] * 3

    table, ids = Table(dtype), jnp.zeros(MANY, jnp.int32)
    weights = table.init(jax.random.key(0), ids)
    rows = jax.jit(jax.grad(lambda v: table.apply(v, ids).astype(jnp.float32).sum()))(weights)
    assert rows["params"]["table"]["embedding"].tolist() == [[MANY] * 3, [0] * 3]

    big, small = jnp.ones((MANY, 3), dtype), jnp.ones((1, 3), dtype)
    repeated = jax.jit(jax.grad(lambda y: add_broadcast(big, y).astype(jnp.float32).sum()))(small)
    np.testing.assert_allclose(repeated.astype(float), MANY, rtol=jnp.finfo(dtype).eps)
    assert repeated.dtype == add_broadcast(big, small).dtype == dtype


# The whole step


def test_averages_and_moments_stay_float32_and_move():
    """An average that was kept in bfloat16 would never move by a ten thousandth of the difference."""
    b = Bench("toy", precision__compute="bfloat16", optim__ema__average__decay=0.9999)
    state, _ = b.step()(b.state, b.batch)
    kept = (state.params, state.opt_state, state.ema, state.collections)
    assert {x.dtype for x in jax.tree.leaves(kept) if jnp.issubdtype(x.dtype, jnp.floating)} == {jnp.dtype("float32")}
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), state.ema["average"], b.state.params)
    assert all(0 < x < 1e-5 for x in jax.tree.leaves(moved))


# float16


def test_a_task_that_float16_would_break_is_refused():
    reason = re.escape(TASKS["toy_unsafe"].float16_unsafe)
    with pytest.raises(
        UserError, match=rf"precision\.compute = 'float16': float32 or bfloat16 for this task: {reason}"
    ):
        build(tiny_config("toy_unsafe", precision__compute="float16"), lambda line: None)
    build(tiny_config("toy_unsafe", precision__compute="bfloat16"), lambda line: None)


def test_the_scale_saves_gradients_that_float16_cannot_hold():
    class Faint:
        """A loss whose gradient in float16 is 1e-9, a sixtieth of its smallest number."""

        def terms(self, variables, batch, draws, totals, step):
            product = variables["params"]["w"].astype(jnp.float16) * jnp.ones((), jnp.float16)
            return {"faint": 1e-9 * product.astype(jnp.float32)}, Aux({})

    def gradient(scale):
        state = State(params={"w": jnp.ones(())}, loss_scale=scale)
        grads, terms, *_ = loss_and_grads(Faint(), state, {}, {}, None, 1)
        assert terms["loss"] == jnp.float32(1e-9), "logged without the scale"
        return float(grads["w"])

    assert gradient({}) == 0
    assert gradient({"scale": jnp.float32(2.0**16)}) == pytest.approx(1e-9, rel=1e-3)


def test_an_overflow_skips_the_update_and_halves_the_scale_until_it_fits(tmp_path):
    keys = {"precision__loss_scale__init": 2.0**24, "precision__loss_scale__growth_interval": 3}
    config = tiny_config("toy", precision__compute="float16", **keys)
    parts = build(config, lambda line: None)
    b = Bench("toy", precision__compute="float16", **keys)
    step, state = b.step(), b.state
    scales, skipped, states = [], [], [state]
    for _ in range(24):
        state, stats = step(state, b.batch)
        scales.append(float(compute(stats)["loss_scale"]))
        skipped.append(int(compute(stats)["skipped"]))
        states.append(state)
    first = skipped.index(0)
    assert skipped[:first] == [1] * first and first > 0
    assert scales[: first + 1] == [2.0 ** (24 - i) for i in range(first + 1)]
    # Then it grows every three updates until one overflows, and so on.
    grown = [b / a for a, b in itertools.pairwise(scales)]
    assert grown[first : first + 3] == [1, 1, 2] and set(grown) <= {0.5, 1, 2}
    for ok, before, after in zip(skipped, states, states[1:], strict=False):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params, before.params)
        assert all(jax.tree.leaves(same)) == bool(ok)
    # It is a part of what a checkpoint holds.
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(int(state.step), state, {})
    checkpoints.close()
    restored = Checkpoints(tmp_path).restore(parts.like).state
    jax.tree.map(np.testing.assert_array_equal, restored.loss_scale, state.loss_scale)


def test_without_float16_there_is_no_scale():
    assert build(tiny_config("toy", precision__compute="bfloat16"), lambda line: None).like.loss_scale == {}
