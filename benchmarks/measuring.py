"""What the benchmarks measure with: times of things run in turn, batches alike, products in a program, peaks."""

import importlib
import math
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import cli
from jaxvae.errors import UserError

# Sides of square products, large enough to reach a device's peak and quick enough to be repeated.
PEAK_SIZES = {"cpu": (1024, 2048), "accelerator": (4096, 8192)}
PEAK_ROUNDS = 5
# Above this ratio of median to minimum the machine did other work, and times say little.
BUSY = 1.3


class Times(NamedTuple):
    """Seconds of repeated runs. The minimum is the number to compare: other work only ever adds to it."""

    min: float
    median: float

    @property
    def busy(self) -> bool:
        return self.median > BUSY * self.min


def in_turn(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Wall times of each function, all of them once per round, so that none has the machine's quiet minutes alone.

    A function returns when its work is done. Every timed run follows an untimed one of the same function: the
    first one after another function pays for the memory that the other gave back to the system (on a virtual
    machine, half a step), which a training, where the same step follows the same step, does not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            function()
            since = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - since)
    return {name: Times(min(values), statistics.median(values)) for name, values in seconds.items()}


def alike(parts, updates: int) -> list[int]:
    """The first steps whose batches have the capacity that most batches have; `parts` is what `build` made.

    Raises:
      UserError: if there are not so many.
    """
    capacities = [parts.plan.batch(step).capacity for step in range(parts.plan.steps_per_epoch)]
    ((common, times),) = Counter(capacities).most_common(1)
    steps = [step for step, capacity in enumerate(capacities) if capacity == common][:updates]
    if len(steps) < updates:
        raise UserError(f"--updates={updates}: the data has {times} batches of capacity {common}")
    return steps


def machine(*modules: str) -> dict[str, Any]:
    """What a measurement has to say of itself: {'command', 'devices', 'threads', 'versions', 'environment'}."""
    return {
        "command": cli.command_line(),
        "devices": [device.device_kind for device in jax.devices()],
        "threads": cpu_threads(),
        "versions": versions(*modules),
        # Huge pages for malloc: they change a CPU's times.
        "environment": {name: os.environ[name] for name in ("GLIBC_TUNABLES", "XLA_FLAGS") if name in os.environ},
    }


def versions(*modules: str) -> dict[str, str]:
    """Versions of Python and of these packages."""
    return {"python": platform.python_version()} | {m: importlib.import_module(m).__version__ for m in modules}


def cpu_threads() -> int:
    """Cores that this process may use: what both XLA and the twins get."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def matmul_peak(dtype: str) -> dict[str, float]:
    """The fastest of a few square products: {'flops_per_s', 'size'}, 2 n^3 operations each, default precision."""
    sizes = PEAK_SIZES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    best = {"flops_per_s": 0.0, "size": 0}
    for size in sizes:
        speed = 2 * size**3 / matmul_time(size, dtype)
        best = max(best, {"flops_per_s": speed, "size": size}, key=lambda peak: peak["flops_per_s"])
    return best


def matmul_time(size: int, dtype: str) -> float:
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    return in_turn({"matmul": lambda: product(a, a).block_until_ready()}, PEAK_ROUNDS)["matmul"].min


def product_flops(jaxpr) -> int:
    """Floating point operations in the matrix products and convolutions of a jaxpr, 2 per multiply-add.

    Counted in the program as it was traced and not by XLA's cost analysis, which counts the body of a loop once:
    here the body of a scan (micro-batches, chunks of attention, loops of fixed length) counts as often as it
    runs. Of a conditional the most expensive branch counts; a `while` of unknown length counts once. What is
    computed again in the backward pass counts again. The zeros between the inputs of a transposed convolution, or
    of the gradient of one with stride, do not count; those around the edges do. Work that is no product (softmax,
    norms, the optimizer) does not count.
    """
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        # Of the places in a window only one in `lhs_dilation` meets an input; the others meet zeros in between.
        spread = math.prod(params["lhs_dilation"])
        return 2 * equation.outvars[0].aval.size * kernel.size // (features * spread)
    inner = [product_flops(getattr(p, "jaxpr", p)) for p in _flat(params.values()) if _is_jaxpr(p)]
    if name == "cond":
        return max(inner)
    return sum(inner) * params.get("length", 1) if name == "scan" else sum(inner)


def _flat(values):
    for value in values:
        yield from value if isinstance(value, tuple | list) else (value,)


def _is_jaxpr(value) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def memory(compiled) -> dict[str, int]:
    """Bytes that a compiled program holds at its peak by XLA's account; `total` is their sum without `aliased`."""
    analysis = compiled.memory_analysis()
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
    }
    return parts | {"total": parts["arguments"] + parts["outputs"] + parts["temporaries"] - parts["aliased"]}
