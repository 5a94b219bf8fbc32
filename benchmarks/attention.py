"""Speed and memory of attention, forward and backward, for the ways to compute it that were considered.

    python benchmarks/attention.py [--json=PATH] [--rounds=9] [--shapes=16x16x256x256x32,...]

Shapes are B x H x Lq x Lk x d, float32, with a key mask. All variants of a shape run in turn in one process; a
time is the smallest of the rounds and is given relative to torch's scaled_dot_product_attention (to the naive
formula where torch is missing or jax runs on an accelerator). Numbers in brackets are MiB of temporary memory.
"""

import argparse
import functools
import json
import math
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.nn import attention as module

try:
    import torch
except ImportError:
    torch = None

SHAPES = (
    "16x16x64x64x32,16x16x128x128x32,16x16x256x256x32,16x16x512x512x32,"
    "16x16x128x64x32,16x16x256x64x32,32x8x48x48x16,64x4x32x32x32"
)
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


def measure(shape, rounds, baseline):
    """One row per variant: {shape, variant, ratio, milliseconds, temp_mib}."""
    data = example(shape)
    steps = {name: compile_variant(name, data) for name in VARIANTS}
    if baseline == "torch":
        steps["torch"] = torch_step(data), None
    want = steps[baseline][0]()
    for name, (step, _) in steps.items():
        for a, b in zip(step(), want, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=5e-5, err_msg=name)

    def seconds(step, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return (time.perf_counter() - start) / repeats

    repeats = math.ceil(0.02 / seconds(steps[baseline][0], 1))
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, _) in steps.items():
            step()
            times[name].append(seconds(step, repeats))
    best = min(times[baseline])
    spread = statistics.median(times[baseline]) / best
    unsure = " (cores busy: repeat)" if spread > 1.3 else ""
    print(f"\n{'x'.join(map(str, shape))}: {baseline} {1e3 * best:.2f} ms, median / min {spread:.2f}{unsure}")
    rows = []
    for name, (_, temp) in steps.items():
        ratio = min(times[name]) / best
        rows.append(dict(shape=shape, variant=name, ratio=ratio, milliseconds=1e3 * min(times[name]), temp_mib=temp))
        if name != "torch":
            print(f"  {name:30s} {ratio:5.2f} [{temp:5.0f}]", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="also write the numbers to this file")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", default=SHAPES)
    flags = parser.parse_args()
    baseline = "torch" if torch and jax.default_backend() == "cpu" else "naive"
    if torch:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    header = dict(
        jax=jax.__version__,
        torch=torch.__version__ if torch else None,
        devices=[f"{device.platform} {device.device_kind}" for device in jax.devices()],
        machine=f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        baseline=baseline,
    )
    print(*(f"{key}: {value}" for key, value in header.items()), sep="\n")
    shapes = [tuple(map(int, shape.split("x"))) for shape in flags.shapes.split(",")]
    rows = [row for shape in shapes for row in measure(shape, flags.rounds, baseline)]
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(dict(header, rows=rows), file, indent=1)


if __name__ == "__main__":
    main()
