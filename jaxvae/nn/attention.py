"""Softmax attention: the one function that all attention of the library goes through, and its Flax module.

The gradient is written by hand: the forward pass keeps the output and the log-sum-exp of each row instead of the
probabilities, which the backward pass computes again (Dao et al. 2022, "FlashAttention", appendix B.2; the tiles
are left to XLA). On a CPU, batch and heads are worked through in chunks whose scores stay in the cache; elsewhere
all at once. `benchmarks/attention.py` measures both choices against the alternatives.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxvae.nn.dense import Dense

# Scores that a CPU handles at a time, per device: between one core's L2 cache and the shared L3. From 1 to 4 MiB
# the speed is the same; with all scores of a large batch at once it halves.
CHUNK_BYTES = 2 * 2**20


def attention(
    q: Float[Array, "B H Lq d"],
    k: Float[Array, "B H Lk d"],
    v: Float[Array, "B H Lk d"],
    key_mask: Bool[Array, "B Lk"] | None = None,
    bias: Float[Array, "#B #H Lq Lk"] | None = None,
) -> Float[Array, "B H Lq d"]:
    """softmax(q k^T / sqrt(d) + bias) v over the keys where `key_mask` is True (Vaswani et al. 2017, eq. 1).

    Scores and softmax are float32 whatever the type of the inputs; products take the inputs' type and accumulate
    in float32. A query without any visible key gives exactly zero, and so do its gradients. Hidden keys and
    values change nothing as long as they are finite.

    Args:
      bias: added to the scaled scores; -inf hides a single pair of query and key. Broadcasts over batch and heads
        where its axes are 1. Its gradient is only computed when asked for.

    Reverse-mode gradients of first order only; works under jit, vmap, scan and checkpoint, and with a batch that
    is sharded over devices.
    """
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    if k.shape != (batch, heads, keys, width) or v.shape != k.shape:
        raise ValueError(f"q {q.shape}, k {k.shape}, v {v.shape}: expected [B, H, Lq, d] and twice [B, H, Lk, d]")
    if key_mask is not None and key_mask.shape != (batch, keys):
        raise ValueError(f"key_mask {key_mask.shape}: expected [B, Lk] = {(batch, keys)}")
    if bias is not None and (
        bias.shape[2:] != (queries, keys) or bias.shape[0] not in (1, batch) or bias.shape[1] not in (1, heads)
    ):
        raise ValueError(f"bias {bias.shape}: expected [B or 1, H or 1, Lq, Lk] = {(batch, heads, queries, keys)}")
    # The mask gets a head axis so that every operand of a chunk begins with [batch or 1, heads or 1].
    return _attention(q, k, v, None if key_mask is None else key_mask[:, None], bias)


@jax.custom_vjp
def _attention(q, k, v, mask, bias):
    return _attention_fwd(q, k, v, mask, bias)[0]


def _attention_fwd(q, k, v, mask, bias):
    out, logsumexp = _in_chunks(_forward, q, k, v, mask, bias)
    return out, (q, k, v, mask, bias, out, logsumexp)


def _attention_bwd(residuals, grad):
    bias = residuals[4]
    dq, dk, dv, dbias = _in_chunks(_backward, *residuals, grad)
    return dq, dk, dv, None, None if bias is None else dbias.astype(bias.dtype)


_attention.defvjp(_attention_fwd, _attention_bwd)


def _forward(q, k, v, mask, bias):
    scores = _scores(q, k, None if mask is None else mask[..., None, :], bias)
    # The floor is finite, so that a row of nothing but -inf gives exp(-inf) = 0 and not exp(-inf + inf).
    highest = jnp.max(scores, axis=-1, keepdims=True, initial=jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    out = _product(weights.astype(v.dtype), v) / total
    return out.astype(q.dtype), (highest + jnp.log(total))[..., 0]


def _backward(q, k, v, mask, bias, out, logsumexp, grad):
    """Works on the transposed scores [B, H, Lk, Lq]: two of the three products that follow them then need no
    transposition of an Lq x Lk matrix, the third (dq) only of small ones. XLA's products on CPUs are slow else."""
    transposed_bias = None if bias is None else _transpose(bias)
    scores = _scores(k, q, None if mask is None else mask[..., :, None], transposed_bias)
    probs = jnp.exp(scores - logsumexp[..., None, :])
    # Row sums of dprobs * probs, without forming them (FlashAttention, eq. 4 of appendix B.2).
    row_sums = jnp.sum(out.astype(jnp.float32) * grad.astype(jnp.float32), axis=-1)[..., None, :]
    dscores = probs * (_product(v, _transpose(grad)) - row_sums)
    dlogits = (dscores / math.sqrt(q.shape[-1])).astype(q.dtype)
    dq = _transpose(_product(_transpose(k), dlogits)).astype(q.dtype)
    dk = _product(dlogits, q).astype(k.dtype)
    dv = _product(probs.astype(grad.dtype), grad).astype(v.dtype)
    if bias is None:
        return dq, dk, dv, None
    broadcast = [axis for axis in (0, 1) if bias.shape[axis] == 1]
    return dq, dk, dv, _transpose(dscores.sum(axis=broadcast, keepdims=True))


def _scores(rows, columns, mask, bias):
    """Scaled products of rows and columns [B, H, L, d], float32; -inf where hidden."""
    scores = _product(rows, _transpose(columns)) / math.sqrt(rows.shape[-1])
    if bias is not None:
        scores += bias
    return scores if mask is None else jnp.where(mask, scores, -jnp.inf)


def _product(a, b):
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _transpose(x):
    return x.swapaxes(-1, -2)


def _in_chunks(function: Callable, *operands):
    """`function(*operands)`, on CPUs over chunks of batch and heads, on other devices at once.

    Operands and results (or None) begin with the axes [batch or 1, heads or 1]; the first operand has both in full
    and queries next, the second has keys next.
    """
    (batch, heads, queries), keys = operands[0].shape[:3], operands[1].shape[2]
    # A loop over an axis that is split over devices would make each device compute everything. So the batch is seen
    # as [groups, batch / groups], where the first axis takes the split, and the loop runs over the second.
    groups = math.gcd(batch, jax.device_count())
    chunk = _chunk_shape(batch // groups, heads, 4 * queries * keys)
    if chunk == (batch // groups, heads):
        return function(*operands)
    loop = functools.partial(_loop_over_chunks, function, groups, chunk)
    # `default` is the same mathematics: one traced program is right wherever it ends up being compiled.
    return jax.lax.platform_dependent(*operands, cpu=loop, default=function)


def _loop_over_chunks(function, groups, chunk, *operands):
    def grouped(x):
        return x.reshape(*((1, 1) if x.shape[0] == 1 else (groups, x.shape[0] // groups)), *x.shape[1:])

    def corner_and_size(x, start):  # an axis of size 1 is broadcast: every chunk sees all of it
        corner = [start[axis] if x.shape[1 + axis] > 1 else 0 for axis in (0, 1)]
        size = [min(chunk[axis], x.shape[1 + axis]) for axis in (0, 1)]
        rest = x.ndim - 3
        return (0, *corner, *(0,) * rest), (x.shape[0], *size, *x.shape[3:])

    operands = jax.tree.map(grouped, operands)
    _, batch, heads = operands[0].shape[:3]
    per_row = heads // chunk[1]

    def step(i, results):
        start = (i // per_row * chunk[0], i % per_row * chunk[1])
        parts = jax.tree.map(lambda x: jax.lax.dynamic_slice(x, *corner_and_size(x, start)), operands)
        parts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)

        def put(whole, part):
            corner, size = corner_and_size(whole, start)
            part = part.reshape(size)
            if size[1:3] != chunk:  # the gradient of something broadcast: the chunks add up
                part += jax.lax.dynamic_slice(whole, corner, size)
            return jax.lax.dynamic_update_slice(whole, part, corner)

        return jax.tree.map(put, results, function(*parts))

    whole = jax.eval_shape(function, *jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), operands))
    results = jax.tree.map(lambda x: grouped(jnp.zeros(x.shape, x.dtype)), whole)
    results = jax.lax.fori_loop(0, batch // chunk[0] * per_row, step, results)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)


def _chunk_shape(batch: int, heads: int, head_bytes: int) -> tuple[int, int]:
    """(elements of the batch, heads) whose scores take about `CHUNK_BYTES`."""
    fitting = CHUNK_BYTES / head_bytes
    if fitting < heads:
        return 1, _nearest_divisor(heads, fitting)
    return _nearest_divisor(batch, fitting / heads), heads


def _nearest_divisor(number: int, target: float) -> int:
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / target)))


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) with the parameters of torch.nn.MultiheadAttention.

    Parameters (float32), for inputs of width D: `in_proj/kernel` [D, 3D] with the columns q, k, v, `in_proj/bias`
    [3D], `out_proj/kernel` [D, D], `out_proj/bias` [D]: torch's `in_proj_weight` and `out_proj.weight`,
    transposed. Heads are contiguous blocks of D / num_heads columns. Initialisation is torch's: Xavier uniform over
    the packed kernel, U(+-1/sqrt(D)) for `out_proj/kernel`, zero biases. Computes in `dtype`.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_q: Float[Array, "B Lq D"],
        x_kv: Float[Array, "B Lk D"] | None = None,
        key_mask: Bool[Array, "B Lk"] | None = None,
        bias: Float[Array, "#B #H Lq Lk"] | None = None,
    ) -> Float[Array, "B Lq D"]:
        """Attends from `x_q` to `x_kv`, or to itself if that is None; `key_mask` and `bias` as in `attention`.

        A query that sees no key gets the bias of the output projection.
        """
        width = x_q.shape[-1]
        if width % self.num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {self.num_heads}")
        zeros, xavier = nn.initializers.zeros, nn.initializers.xavier_uniform()
        in_proj = Dense(3 * width, self.dtype, kernel_init=xavier, bias_init=zeros, name="in_proj")
        if x_kv is None:
            q, k, v = jnp.split(in_proj(x_q), 3, axis=-1)
        else:
            q = in_proj(x_q, slice(0, width))
            k, v = jnp.split(in_proj(x_kv, slice(width, None)), 2, axis=-1)
        out = attention(*map(self._split_heads, (q, k, v)), key_mask, bias)
        out = out.swapaxes(1, 2).reshape(x_q.shape)
        return Dense(width, self.dtype, bias_init=zeros, name="out_proj")(out)

    def _split_heads(self, x: Float[Array, "B L D"]) -> Float[Array, "B H L d"]:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.num_heads, width // self.num_heads).swapaxes(1, 2)
