"""Attention: the numbers of the textbook formula, whatever the chunks, the platform or the devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxvae.nn import attention as module
from jaxvae.nn.attention import MultiHeadAttention, attention
from jaxvae.nn.dense import Dense

BATCH, HEADS, QUERIES, KEYS, WIDTH = 4, 6, 10, 7, 8
HEAD_BYTES = 4 * QUERIES * KEYS
CHUNKS = {"two heads": 2 * HEAD_BYTES, "two examples": 2 * HEADS * HEAD_BYTES, "everything": 2**30}


@pytest.fixture(params=CHUNKS)
def chunks(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNKS[request.param])


@pytest.fixture
def two_heads(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNKS["two heads"])


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands(queries=QUERIES, keys=KEYS):
    """q, k, v and a mask that hides some keys of every example."""
    q = normal(0, BATCH, HEADS, queries, WIDTH)
    k, v = (normal(seed, BATCH, HEADS, keys, WIDTH) for seed in (1, 2))
    return q, k, v, jnp.arange(keys) < jnp.array([1, 3, keys - 1, 4])[:, None]


def textbook(q, k, v, key_mask, bias):
    """The formula, with a zero output for queries that see nothing."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
    visible = jnp.broadcast_to(key_mask[:, None, None], scores.shape)
    if bias is not None:
        visible &= bias > -jnp.inf
        scores += jnp.where(bias > -jnp.inf, bias, 0)
    probs = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
    return jnp.einsum("bhqk,bhkd->bhqd", jnp.where(visible, probs, 0), v)


def out_and_gradients(function, q, k, v, key_mask, bias=None):
    """The output, and the gradients of q, k, v (and bias) for a random cotangent."""
    cotangent = normal(9, *q.shape).astype(q.dtype)
    chunk_bytes = module.CHUNK_BYTES if function is attention else 0
    results = _out_and_gradients(function, chunk_bytes, q, k, v, key_mask, bias, cotangent)
    return [x for x in results if x is not None]


@functools.partial(jax.jit, static_argnums=(0, 1))  # chunk_bytes only so that another size is traced again
def _out_and_gradients(function, chunk_bytes, q, k, v, key_mask, bias, cotangent):
    out, pullback = jax.vjp(lambda q, k, v, bias: function(q, k, v, key_mask, bias), q, k, v, bias)
    return out, *pullback(cotangent)


def assert_close(got, want, tolerance=1e-5):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("leading", [None, (1, 1), (1, HEADS), (BATCH, 1), (BATCH, HEADS)])
def test_output_and_gradients_are_the_formulas(chunks, leading):
    q, k, v, mask = operands()
    bias = None if leading is None else normal(3, *leading, QUERIES, KEYS)
    got = out_and_gradients(attention, q, k, v, mask, bias)
    assert_close(got, out_and_gradients(textbook, q, k, v, mask, bias))
    assert len(got) == (4 if bias is None else 5)


def test_no_mask_means_that_all_keys_are_visible(two_heads):
    q, k, v, mask = operands()
    got = out_and_gradients(attention, q, k, v, None)
    assert_close(got, out_and_gradients(textbook, q, k, v, jnp.ones_like(mask)))


def test_the_order_of_the_keys_does_not_matter(two_heads):
    q, k, v, mask = operands()
    order = np.random.default_rng(4).permutation(KEYS)
    out, dq, dk, dv = out_and_gradients(attention, q, k, v, mask)
    permuted = out_and_gradients(attention, q, k[:, :, order], v[:, :, order], mask[:, order])
    assert_close(permuted, (out, dq, dk[:, :, order], dv[:, :, order]), 1e-6)


def test_hidden_keys_change_nothing_and_get_no_gradient(chunks):
    q, k, v, mask = operands()
    hidden = ~mask[:, None, :, None]
    want = out_and_gradients(attention, q, k, v, mask)
    got = out_and_gradients(attention, q, jnp.where(hidden, 1e4, k), jnp.where(hidden, -1e4, v), mask)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    for gradient in got[2:]:
        assert not jnp.where(hidden, gradient, 0).any()


def test_a_query_that_sees_nothing_gives_zero_with_zero_gradients(chunks):
    q, k, v, mask = operands(queries=KEYS)
    mask = mask.at[1].set(False)
    earlier = jnp.tril(jnp.ones((KEYS, KEYS), bool), -1)  # strictly causal: the first query sees nothing
    bias = jnp.where(earlier, 0, -jnp.inf)[None, None]
    got = out_and_gradients(attention, q, k, v, mask, bias)
    assert_close(got, out_and_gradients(textbook, q, k, v, mask, bias))  # finite, too
    out, dq, dk, dv, _ = got
    for blind in (out[1], dq[1], dk[1], dv[1], out[:, :, 0], dq[:, :, 0]):
        assert not blind.any()


def test_bfloat16_keeps_scores_and_softmax_in_float32():
    # The first channel lifts all scores by 100. There bfloat16 only knows halves: its softmax goes wrong.
    keys = 512
    q, k, v = (normal(seed, 1, 2, n, WIDTH) for seed, n in enumerate((4, keys, keys)))
    q, k = q.at[..., 0].set(100 * WIDTH**0.5), k.at[..., 0].set(1)
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    mask = jnp.ones((1, keys), bool)
    want = out_and_gradients(attention, *(x.astype(jnp.float32) for x in (q, k, v)), mask)

    def errors(got):
        pairs = ((np.asarray(a, np.float32), np.asarray(b)) for a, b in zip(got, want, strict=True))
        return [np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]

    got = out_and_gradients(attention, q, k, v, mask)
    assert {x.dtype for x in got} == {jnp.dtype(jnp.bfloat16)}
    assert max(errors(got)) < 0.02
    assert min(errors(out_and_gradients(textbook, q, k, v, mask))) > 0.05  # the case can tell


def test_works_under_vmap_scan_and_checkpoint(two_heads):
    q, k, v, mask = operands()
    bias = normal(3, 1, HEADS, QUERIES, KEYS)

    def loss(scale):
        return jnp.sum(attention(scale * q, k, v, mask, scale * bias) ** 2)

    scales = jnp.array([0.5, 2.0])
    gradient = jax.jit(jax.grad(loss))
    want = [gradient(scale) for scale in scales]
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(scales), want, rtol=1e-5)

    def scanned(scales):
        return jax.lax.scan(lambda total, x: (total + jax.checkpoint(loss)(x), None), 0.0, scales)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(scanned))(scales), want, rtol=1e-5)


def test_the_loop_over_chunks_is_only_for_cpus(two_heads):
    traced = jax.jit(attention).trace(*operands())
    assert "stablehlo.while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.while" not in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_can_be_exported_for_any_batch():
    q, k, v, mask = operands()
    (batch,) = export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in (q, k, v, mask)]
    exported = export.export(jax.jit(attention), platforms=["cpu", "cuda"])(*shapes)
    np.testing.assert_allclose(exported.call(q, k, v, mask), attention(q, k, v, mask), atol=1e-6)


FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxvae.nn import attention as module

rng = np.random.default_rng(0)
q, k, v, grad = (jnp.float32(rng.normal(size=(8, 6, 10, 8))) for _ in range(4))
mask, bias = jnp.array(rng.random((8, 10)) < 0.6), jnp.float32(rng.normal(size=(1, 6, 10, 10)))

def step(q, k, v, mask, bias, grad):
    out, pullback = jax.vjp(lambda q, k, v, bias: module.attention(q, k, v, mask, bias), q, k, v, bias)
    return out, *pullback(grad)

assert jax.device_count() == 4
want = jax.jit(step)(q, k, v, mask, bias, grad)
module.CHUNK_BYTES = 2 * 400
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
everywhere = NamedSharding(mesh, PartitionSpec())
args = [jax.device_put(x, everywhere if x is bias else split) for x in (q, k, v, mask, bias, grad)]
compiled = jax.jit(step).lower(*args).compile()
for a, b in zip(compiled(*args), want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
text = compiled.as_text()
assert " while(" in text
assert not any(f" {exchange}(" in text for exchange in ("all-gather", "all-to-all", "collective-permute"))
"""


def test_four_devices_agree_with_one_and_gather_nothing(run_python):
    finished = run_python(FOUR_DEVICES, devices=4, timeout=120)
    assert finished.returncode == 0, finished.stderr


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"num_heads = 5 .* 16"):
        MultiHeadAttention(num_heads=5).init(jax.random.key(0), jnp.zeros((1, 2, 16)))


def test_self_attention_is_cross_attention_to_itself():
    x, mask = normal(0, BATCH, KEYS, 32), operands()[3]
    layer = MultiHeadAttention(num_heads=4)
    shapes = jax.eval_shape(layer.init, jax.random.key(1), x)
    variables = jax.tree.map(lambda p: 0.2 * normal(p.ndim, *p.shape), shapes)  # biases too, which begin at 0
    to_self, to_other = (jax.jit(layer.apply)(variables, x, x_kv, mask) for x_kv in (None, x))
    np.testing.assert_allclose(to_self, to_other, atol=1e-5)


def test_parameters_begin_like_torchs():
    width = 64
    layer, x = MultiHeadAttention(num_heads=4), jnp.zeros((1, 2, width))
    params = jax.jit(layer.init)(jax.random.key(1), x)["params"]
    highest = jax.tree.map(lambda p: np.abs(p).max(), params)
    assert params["in_proj"]["kernel"].shape == (width, 3 * width)
    assert highest["in_proj"]["kernel"] == pytest.approx((6 / (4 * width)) ** 0.5, rel=0.01)
    assert highest["out_proj"]["kernel"] == pytest.approx(width**-0.5, rel=0.01)
    assert highest["in_proj"]["bias"] == highest["out_proj"]["bias"] == 0
    for parameter in jax.tree.leaves(jax.jit(Dense(1000).init)(jax.random.key(1), x)):
        assert np.abs(parameter).max() == pytest.approx(width**-0.5, rel=0.01)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dense_computes_what_flax_computes(dtype):
    """But for the bias, which is not rounded before it is added."""
    x = normal(0, 3, 5, 16)
    params = Dense(8).init(jax.random.key(1), x)["params"]
    product = nn.Dense(8, use_bias=False, dtype=dtype).apply({"params": {"kernel": params["kernel"]}}, x)
    want = (product + params["bias"]).astype(dtype)
    variables = {"params": params}
    got = Dense(8, dtype).apply(variables, x)
    assert got.dtype == product.dtype == dtype
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(Dense(8, dtype).apply(variables, x, slice(2, 5)), want[..., 2:5])
