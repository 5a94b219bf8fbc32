"""Speed and memory of attention, forward and backward, for the ways to compute it that were considered.

    python benchmarks/attention.py [--json=PATH] [--rounds=9] [--shapes=16x16x256x256x32,...]

Shapes are B x H x Lq x Lk x d, float32, with a key mask. All variants of a shape run in turn in one process.
A time is the smallest of the rounds, relative to that of torch's scaled_dot_product_attention (of the naive
formula where torch is missing or jax runs on an accelerator). In brackets: MiB of temporary memory.
"""

import functools
import json
import math
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from measuring import cpu_threads, in_turn, machine

from jaxvae import cli
from jaxvae.errors import UserError
from jaxvae.nn import attention as module

try:
    import torch
except ImportError:
    torch = None

SHAPES = (
    "16x16x64x64x32,16x16x128x128x32,16x16x256x256x32,16x16x512x512x32,"
    "16x16x128x64x32,16x16x256x64x32,32x8x48x48x16,64x4x32x32x32"
)
_SHAPES = flags.DEFINE_list("shapes", SHAPES, "Shapes to measure.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds; each takes 20 ms or one step.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")
flags.register_validator(_JSON, lambda path: Path(path).parent.is_dir(), "its folder does not exist")
MIB = 2**20


def scores(q, k, mask):
    product = jnp.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return jnp.where(mask[:, None, None], product, -jnp.inf)


def naive(q, k, v, mask):
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores(q, k, mask)), v)


def lean_forward(q, k, v, mask):
    logits = scores(q, k, mask)
    highest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    total = weights.sum(-1, keepdims=True)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v) / total, highest + jnp.log(total)


def lean_backward(q, k, v, mask, out, logsumexp, grad):
    """The textbook order of products, on scores [Lq, Lk]; the library transposes them."""
    probs = jnp.exp(scores(q, k, mask) - logsumexp)
    dprobs = jnp.einsum("bhqd,bhkd->bhqk", grad, v)
    dproducts = probs * (dprobs - (out * grad).sum(-1, keepdims=True)) / math.sqrt(q.shape[-1])
    dq = jnp.einsum("bhqk,bhkd->bhqd", dproducts, k)
    dk = jnp.einsum("bhqk,bhqd->bhkd", dproducts, q)
    return dq, dk, jnp.einsum("bhqk,bhqd->bhkd", probs, grad)


def mapped(function, examples):
    """`function` over so many examples of the batch at a time."""

    def run(*operands):
        chunks = [x.reshape(-1, examples, *x.shape[1:]) for x in operands]
        results = jax.lax.map(lambda chunk: function(*chunk), chunks)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)

    return run


def lean(examples=None):
    """Keeps output and log-sum-exp only; in one piece, or mapped over the batch."""
    wrap = functools.partial(mapped, examples=examples) if examples else lambda function: function
    forward, backward = wrap(lean_forward), wrap(lean_backward)
    attention = jax.custom_vjp(lambda *operands: forward(*operands)[0])

    def keep(*operands):
        out, logsumexp = forward(*operands)
        return out, (*operands, out, logsumexp)

    attention.defvjp(keep, lambda kept, grad: (*backward(*kept, grad), None))
    return attention


# name: (function, chunk size of the library)
VARIANTS = {
    "library": (module.attention, module.CHUNK_BYTES),
    "library, chunks of 1 MiB": (module.attention, 1 * MIB),
    "library, chunks of 4 MiB": (module.attention, 4 * MIB),
    "library, in one piece": (module.attention, 2**50),
    "naive": (naive, None),
    "naive, checkpoint": (jax.checkpoint(naive), None),
    "naive, map over 1, checkpoint": (mapped(jax.checkpoint(naive), 1), None),
    "lean": (lean(), None),
    "lean, map over 1": (lean(1), None),
    "lean, map over 4": (lean(4), None),
}


def parse_shape(text):
    """(B, H, Lq, Lk, d).

    Raises:
      UserError: if it is none, or not one that all variants and the mask can do with.
    """
    found = re.fullmatch("x".join([r"([1-9]\d*)"] * 5), text)
    shape = tuple(map(int, found.groups())) if found else None
    if shape is None or shape[0] % 4 or shape[3] < 2:
        raise UserError(f"--shapes={text}: give BxHxLqxLkxd with a B that 4 divides and an Lk of at least 2")
    return shape


def example(shape):
    """q, k, v, key mask (half to all of the keys), gradient of the output."""
    batch, heads, queries, keys, width = shape
    rng = np.random.default_rng(0)
    lengths = (queries, keys, keys, queries)
    q, k, v, grad = (rng.normal(size=(batch, heads, n, width)).astype(np.float32) for n in lengths)
    mask = np.arange(keys) < rng.integers(keys // 2, keys + 1, size=batch)[:, None]
    return q, k, v, mask, grad


def compile_variant(name, data):
    function, chunk_bytes = VARIANTS[name]
    module.CHUNK_BYTES = chunk_bytes or module.CHUNK_BYTES  # read while tracing

    def step(q, k, v, mask, grad):
        out, pullback = jax.vjp(lambda q, k, v: function(q, k, v, mask), q, k, v)
        return out, *pullback(grad)

    data = jax.device_put(data)
    compiled = jax.jit(step).lower(*data).compile()
    return lambda: jax.block_until_ready(compiled(*data)), compiled.memory_analysis().temp_size_in_bytes / MIB


def torch_step(data):
    q, k, v, mask, grad = map(torch.from_numpy, data)
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def step():
        out = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask[:, None, None])
        return out.detach(), *torch.autograd.grad(out, inputs, grad)

    return step


def repeated(step, times):
    def run():
        for _ in range(times):
            step()

    return run


def measure(shape, baseline):
    """One row per variant: {shape, variant, ratio, milliseconds, temp_mib}."""
    data = example(shape)
    steps, temp_mib = {}, {"torch": None}
    for name in VARIANTS:
        steps[name], temp_mib[name] = compile_variant(name, data)
    if baseline == "torch":
        steps["torch"] = torch_step(data)
    want = steps[baseline]()
    for name, step in steps.items():
        for a, b in zip(step(), want, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=5e-5, err_msg=name)

    start = time.perf_counter()
    steps[baseline]()
    repeats = math.ceil(0.02 / (time.perf_counter() - start))
    times = in_turn({name: repeated(step, repeats) for name, step in steps.items()}, _ROUNDS.value)
    best = times[baseline]
    busy = ", cores were busy: repeat" if best.busy else ""
    print(f"\n{'x'.join(map(str, shape))}: {baseline} {1e3 * best.min / repeats:.2f} ms{busy}")
    rows = []
    for name in steps:
        row = {"shape": shape, "variant": name, "ratio": times[name].min / best.min}
        rows.append(row | {"milliseconds": 1e3 * times[name].min / repeats, "temp_mib": temp_mib[name]})
        if name != "torch":
            print(f"  {name:30s} {row['ratio']:5.2f} [{temp_mib[name]:5.0f}]", flush=True)
    return rows


def main():
    shapes = [parse_shape(text) for text in _SHAPES.value]
    if torch:
        torch.set_num_threads(cpu_threads())
    modules = ["jax", "jaxlib", *(["torch"] if torch else [])]
    header = machine(*modules) | {
        "rounds": _ROUNDS.value,
        "baseline": "torch" if torch and jax.default_backend() == "cpu" else "naive",
    }
    print(*(f"{key}: {value}" for key, value in header.items()), sep="\n")
    rows = [row for shape in shapes for row in measure(shape, header["baseline"])]
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(header | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
