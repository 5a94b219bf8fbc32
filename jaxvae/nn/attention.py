"""Softmax attention: the one function that all attention of the library goes through, and its Flax module.

The gradient is written by hand: the forward pass keeps the output and the log-sum-exp of each row instead of
the probabilities, which the backward pass computes again (Dao et al. 2022, "FlashAttention", appendix B; its
tiles are left out). On a CPU, batch and heads are worked through in chunks whose scores stay in the cache; on
other devices all at once. `benchmarks/attention.py` measures these choices against the alternatives.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxvae.nn.dense import Dense

# Scores that a CPU handles at a time, to stay in its caches. From 1 to 4 MiB the speed is much the same; with
# all scores of a large batch at once it halves.
CHUNK_BYTES = 2 * 2**20


def attention(
    q: Float[Array, "B H Lq d"],
    k: Float[Array, "B H Lk d"],
    v: Float[Array, "B H Lk d"],
    key_mask: Bool[Array, "B Lk"] | None = None,
    bias: Float[Array, "#B #H Lq Lk"] | None = None,
) -> Float[Array, "B H Lq d"]:
    """softmax(q k^T / sqrt(d) + bias) v over the keys where `key_mask` is True (Vaswani et al. 2017, eq. 1).

    Scores and softmax are float32 whatever the inputs' type; products take that type and accumulate in
    float32. A query without any visible key gives exactly zero, and so do its gradients. Hidden keys and
    values change nothing as long as they are finite.

    Args:
      bias: added to the scaled scores; -inf hides one key from one query. Its batch and head axes may be 1.
        Its gradient costs nothing where it is not asked for.

    First-order reverse-mode gradients only. Works under jit, vmap, scan, checkpoint and export, and with a
    batch that is sharded over devices.
    """
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    if k.shape != (batch, heads, keys, width) or v.shape != k.shape:
        raise ValueError(f"q {q.shape}, k {k.shape}, v {v.shape} are not [B, H, Lq, d] and two [B, H, Lk, d]")
    if key_mask is not None and key_mask.shape != (batch, keys):
        raise ValueError(f"key_mask {key_mask.shape} is not [B, Lk] = {(batch, keys)}")
    if bias is not None and bias.shape not in {(b, h, queries, keys) for b in (1, batch) for h in (1, heads)}:
        full = (batch, heads, queries, keys)
        raise ValueError(f"bias {bias.shape} is not [B, H, Lq, Lk] = {full}, with 1 allowed for B and H")
    # With a head axis for the mask, every operand of a chunk begins with [batch or 1, heads or 1].
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
    # Scores are [B, H, Lk, Lq] here: the products after them transpose nothing wider than d. Untransposed,
    # the products for dk and dv made the backward pass up to 1.8 times as slow on CPUs.
    bias_t = None if bias is None else _transpose(bias)
    scores = _scores(k, q, None if mask is None else mask[..., :, None], bias_t)
    probs = jnp.exp(scores - logsumexp[..., None, :])
    dprobs = _product(v, _transpose(grad))
    # The sum of probs * dprobs over the keys of a query is the product of its output and the gradient there.
    row_sums = jnp.sum(out.astype(jnp.float32) * grad.astype(jnp.float32), axis=-1)
    dscores = probs * (dprobs - row_sums[..., None, :])
    dproducts = (dscores / math.sqrt(q.shape[-1])).astype(q.dtype)
    dq = _transpose(_product(_transpose(k), dproducts)).astype(q.dtype)
    dk = _product(dproducts, q).astype(k.dtype)
    dv = _product(probs.astype(grad.dtype), grad).astype(v.dtype)
    dbias = None if bias is None else _transpose(_sum_to(bias.shape[:2], dscores))
    return dq, dk, dv, dbias


def _scores(rows, columns, mask, bias):
    """Scaled products of rows and columns [B, H, L, d], plus the bias, in float32; -inf where hidden."""
    scores = _product(rows, _transpose(columns)) / math.sqrt(rows.shape[-1])
    if bias is not None:
        scores += bias
    return scores if mask is None else jnp.where(mask, scores, -jnp.inf)


def _product(a, b):
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _transpose(x):
    return x.swapaxes(-1, -2)


def _sum_to(leading, x):
    """Sums the first two axes of `x` where `leading` has 1, each as a product with ones: on CPUs XLA's own
    sums over leading axes took longer than the rest of the backward pass."""
    for axis in (1, 0):
        if leading[axis] < x.shape[axis]:
            rows = x.reshape(*x.shape[: axis + 1], -1)
            ones = jnp.ones((*x.shape[:axis], 1, x.shape[axis]), x.dtype)
            total = jnp.matmul(ones, rows, precision=jax.lax.Precision.HIGHEST)
            x = total.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return x


def _in_chunks(function: Callable, *operands):
    """`function(*operands)`, on CPUs in a loop over chunks of batch and heads, elsewhere at once.

    Operands and results are arrays that begin with [batch or 1, heads or 1], or None. The first two operands
    begin with [batch, heads, queries] and [batch, heads, keys].
    """
    (batch, heads, queries), keys = operands[0].shape[:3], operands[1].shape[2]
    if any(map(export.is_symbolic_dim, (batch, queries, keys))):
        return function(*operands)  # exported for any size, so there is none to choose a chunk by
    # A loop over an axis that is split over devices would gather it on each. So the batch is seen as
    # [groups, batch / groups]: the first axis takes the split, the loop runs over the second. Nothing is then
    # exchanged, but for the gradient of a bias that the batch shares: one sum over devices per chunk.
    groups = math.gcd(batch, jax.device_count())
    chunk = _chunk_shape(batch // groups, heads, 4 * queries * keys)
    if chunk == (batch // groups, heads):
        return function(*operands)
    loop = functools.partial(_loop_over_chunks, function, groups, chunk)
    return jax.lax.platform_dependent(*operands, cpu=loop, default=function)


def _loop_over_chunks(function, groups, chunk, *operands):
    def grouped(x):  # [batch, ...] -> [groups, batch / groups, ...]
        return x.reshape(*((1, 1) if x.shape[0] == 1 else (groups, x.shape[0] // groups)), *x.shape[1:])

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    def place(x, start):  # corner and size of a chunk in the grouped `x`; axes of 1 are broadcast
        corner = [i if n > 1 else 0 for i, n in zip(start, x.shape[1:3], strict=True)]
        size = [min(i, n) for i, n in zip(chunk, x.shape[1:3], strict=True)]
        return (0, *corner, *(0 for _ in x.shape[3:])), (x.shape[0], *size, *x.shape[3:])

    def step(i, results):
        start = (i // columns * chunk[0], i % columns * chunk[1])
        parts = jax.tree.map(lambda x: flat(jax.lax.dynamic_slice(x, *place(x, start))), operands)

        def put(whole, part):
            corner, size = place(whole, start)
            part = part.reshape(size)
            if 1 in whole.shape[1:3]:  # perhaps the gradient of something broadcast, where chunks add up
                part += jax.lax.dynamic_slice(whole, corner, size)
            return jax.lax.dynamic_update_slice(whole, part, corner)

        return jax.tree.map(put, results, function(*parts))

    shapes = jax.eval_shape(function, *operands)
    results = jax.tree.map(lambda x: grouped(jnp.zeros(x.shape, x.dtype)), shapes)
    operands = jax.tree.map(grouped, operands)
    _, batch, heads = operands[0].shape[:3]
    columns = heads // chunk[1]
    return jax.tree.map(flat, jax.lax.fori_loop(0, batch // chunk[0] * columns, step, results))


def _chunk_shape(batch: int, heads: int, head_bytes: int) -> tuple[int, int]:
    """(examples, heads) whose scores take about `CHUNK_BYTES`, if those of one head take `head_bytes`."""
    fitting = CHUNK_BYTES / head_bytes
    if fitting < heads:
        return 1, _nearest_divisor(heads, fitting)
    return _nearest_divisor(batch, fitting / heads), heads


def _nearest_divisor(number: int, target: float) -> int:
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / target)))


class Past(NamedTuple):
    """Keys and values of the positions of a sequence that were written so far; the rest is room for more."""

    keys: Float[Array, "B H L d"]
    values: Float[Array, "B H L d"]
    length: Int[Array, ""]

    @classmethod
    def empty(cls, batch: int, length: int, width: int, num_heads: int, dtype: DTypeLike = jnp.float32) -> "Past":
        """Room for `length` positions of an attention of width `width`."""
        room = jnp.zeros((batch, num_heads, length, width // num_heads), dtype)
        return cls(room, room, jnp.zeros((), jnp.int32))

    def append(self, keys: Float[Array, "B H 1 d"], values: Float[Array, "B H 1 d"]) -> "Past":
        """With one more position."""
        place = (0, 0, self.length, 0)
        keys = jax.lax.dynamic_update_slice(self.keys, keys.astype(self.keys.dtype), place)
        values = jax.lax.dynamic_update_slice(self.values, values.astype(self.values.dtype), place)
        return Past(keys, values, self.length + 1)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), laid out like torch.nn.MultiheadAttention.

    Parameters (float32), for inputs of width D: `in_proj/kernel` [D, 3D] with the columns q, k, v,
    `in_proj/bias` [3D], `out_proj/kernel` [D, D], `out_proj/bias` [D]; the kernels are torch's
    `in_proj_weight` and `out_proj.weight` transposed. Heads are contiguous blocks of D / num_heads columns.
    Initialisation is torch's: Xavier uniform over the packed kernel, U(+-1/sqrt(D)) for `out_proj/kernel`,
    zero biases.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32  # of the computation

    @nn.compact
    def __call__(
        self,
        x_q: Float[Array, "B Lq D"],
        x_kv: Float[Array, "B Lk D"] | None = None,
        key_mask: Bool[Array, "B Lk"] | None = None,
        bias: Float[Array, "#B #H Lq Lk"] | None = None,
        past: Past | None = None,
    ) -> Float[Array, "B Lq D"] | tuple[Float[Array, "B Lq D"], Past]:
        """Attends from `x_q` to `x_kv`, or to `x_q` itself; `key_mask` and `bias` are those of `attention`.

        A query that sees no key gets the bias of the output projection.

        Args:
          past: for writing a sequence one position after the other. `x_q` [B, 1, D] is then the next position; it
            attends to itself and to those before it, without `x_kv`, `key_mask` and `bias`. The result is the output
            and the past with this position in it.
        """
        width = x_q.shape[-1]
        if width % self.num_heads:
            raise ValueError(f"num_heads = {self.num_heads} does not divide the width {width}")
        zeros, xavier = nn.initializers.zeros, nn.initializers.xavier_uniform()
        in_proj = Dense(3 * width, self.dtype, kernel_init=xavier, bias_init=zeros, name="in_proj")
        if x_kv is None:
            q, k, v = jnp.split(in_proj(x_q), 3, axis=-1)
        else:
            q = in_proj(x_q, slice(0, width))
            k, v = jnp.split(in_proj(x_kv, slice(width, None)), 2, axis=-1)
        q, k, v = map(self._split_heads, (q, k, v))
        if past is not None:
            past = past.append(k, v)
            k, v, seen = past.keys, past.values, jnp.arange(past.keys.shape[2]) < past.length
            key_mask = jnp.broadcast_to(seen, (len(x_q), len(seen)))
        out = attention(q, k, v, key_mask, bias).swapaxes(1, 2).reshape(x_q.shape)
        out = Dense(width, self.dtype, bias_init=zeros, name="out_proj")(out)
        return out if past is None else (out, past)

    def _split_heads(self, x: Float[Array, "B L D"]) -> Float[Array, "B H L d"]:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.num_heads, width // self.num_heads).swapaxes(1, 2)
