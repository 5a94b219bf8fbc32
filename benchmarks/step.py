"""Measures the train step of a configuration: compile time, step time, memory, share of the machine's peak.

    python benchmarks/step.py --config=configs/glyph_vae.py:small
    python benchmarks/step.py --config=configs/glyph_vae.py:small --against=torch --capacity=40 --json=step.json
    python benchmarks/step.py --config=configs/glyph_vae.py --config.data.batch_size=4 \
        --config.precision.compute=float32 --against=torch

The step is the one that training jits (`jaxvae.train.setup`), with its metrics, averages and check for non-finite
numbers, on a batch that the configuration's plan makes in its first epoch; the batch lies on the device already.
Times are wall times of single steps, each awaited. With --against=torch the same updates are made by the task's
PyTorch twin (`twins.py`) in this process, after both gave the same losses and the same norm of the gradient; both
run in turn, and the ratio is that of the fastest steps. On a CPU, start it with
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 for fewer page faults.
"""

import json
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from measuring import in_turn, machine, matmul_peak, memory, product_flops, versions
from twins import find_twin, prove_equal

from jaxvae import cli
from jaxvae.data.loader import assemble
from jaxvae.data.plan import PlannedBatch
from jaxvae.errors import UserError
from jaxvae.train.build import Parts, build, count_parameters
from jaxvae.train.sharding import batch_sharding, put

_AGAINST = flags.DEFINE_enum("against", None, ["torch"], "Time the task's twin in this framework as well.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed steps.", lower_bound=1)
_CAPACITY = flags.DEFINE_list("capacity", [], "Sizes that the batch is padded to; default the largest there are.")
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")
flags.register_validator(_JSON, lambda path: Path(path).parent.is_dir(), "its folder does not exist")

MIB = 2**20
DEFAULT = Path(__file__).parents[1] / "configs" / "glyph_vae.py:quickstart"


def main() -> None:
    config = cli.config(default=DEFAULT)
    capacity = parse_capacity(_CAPACITY.value)
    twin_module = find_twin(config) if _AGAINST.value else None
    # An entry of the compilation cache would be loaded in no time and reported as a compilation.
    jax.config.update("jax_enable_compilation_cache", False)
    parts = build(config, lambda line: None)
    planned = choose_batch(parts, capacity)
    numbers = measure(parts, planned, twin_module, _ROUNDS.value)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(report(numbers))


def parse_capacity(sizes: list[str]) -> tuple[int, ...]:
    """The flag as numbers; () when it was not given."""
    try:
        return tuple(map(int, sizes))
    except ValueError:
        raise UserError(f"--capacity={','.join(sizes)}: give whole numbers, separated by commas") from None


def choose_batch(parts: Parts, capacity: tuple[int, ...]) -> PlannedBatch:
    """The widest batch of the first epoch that fits into `capacity`, padded to it; () is the largest there is.

    Raises:
      UserError: if the data has no such capacity, or every batch is wider.
    """
    capacities = [tuple(found) for found in parts.sources["train"].capacities]
    largest = capacities[-1]
    capacity = capacity or largest
    plan = parts.plan
    epoch = [plan.batch(step) for step in range(plan.steps_per_epoch)]
    fitting = [planned for planned in epoch if fits(planned.capacity, capacity)]
    if len(capacity) != len(largest) or not fits(capacity, largest) or not fitting:
        asked = ",".join(map(str, capacity))
        there_are = "; ".join(",".join(map(str, found)) for found in capacities)
        raise UserError(f"--capacity={asked}: the data has {there_are}; give one of them, or anything between")
    widest = max(fitting, key=lambda planned: (planned.capacity, len(planned.indices)))
    return widest._replace(capacity=capacity)


def fits(sizes: tuple[int, ...], capacity: tuple[int, ...]) -> bool:
    return all(size <= room for size, room in zip(sizes, capacity, strict=False))


class JaxvaeStep:
    """The compiled train step on one batch; every call makes an update and waits for it."""

    def __init__(self, parts: Parts, batch: dict[str, np.ndarray]):
        self.state, self.batch = parts.create(), put(batch, batch_sharding(parts.mesh))
        since = time.perf_counter()
        traced = parts.dispatch().single.trace(self.state, self.batch)
        lowered = traced.lower()
        self.trace_s = time.perf_counter() - since
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - since - self.trace_s
        self.flops = product_flops(traced.jaxpr.jaxpr)

    def __call__(self) -> dict[str, float]:
        self.state, stats, _ = jax.block_until_ready(self.compiled(self.state, self.batch))
        return stats


def measure(parts: Parts, planned: PlannedBatch, twin_module, rounds: int) -> dict:
    """All numbers, JSON-able; times in seconds, memory in bytes."""
    config = parts.config
    batch = assemble(parts.plan, planned, parts.rows)
    parameters = count_parameters(parts.like.params)
    step = JaxvaeStep(parts, batch)
    numbers = {
        "task": config.task,
        "preset": config.preset,
        **machine("jax", "jaxlib", "flax", "numpy"),
        "parameters": parameters,
        "compute": config.precision.compute,
        "capacity": list(planned.capacity),
        "examples": len(planned.indices),
        "batch": {name: list(array.shape) for name, array in batch.items()},
        "trace_s": step.trace_s,
        "compile_s": step.compile_s,
        "memory": memory(step.compiled),
        "matmul_peak": {dtype: matmul_peak(dtype) for dtype in sorted({"float32", config.precision.compute})},
        "step_flops": step.flops,
    }
    functions = {"jaxvae": step}
    if twin_module:
        twin = twin_module.TorchTwin(config, step.state.params, step.state.collections, batch)
        numbers["versions"] |= versions("torch")
        numbers["difference"] = prove_equal(parts, step, twin)
        functions["torch"] = twin.step
    times = in_turn(functions, rounds)
    numbers["rounds"] = rounds
    numbers["times"] = {name: t._asdict() | {"busy": t.busy} for name, t in times.items()}
    if twin_module:
        numbers["ratio"] = times["jaxvae"].min / times["torch"].min
    numbers["examples_per_s"] = numbers["examples"] / times["jaxvae"].min
    peak = numbers["matmul_peak"][config.precision.compute]["flops_per_s"] * jax.device_count()
    numbers["flops_per_s"] = step.flops / times["jaxvae"].min
    numbers["share_of_peak"] = numbers["flops_per_s"] / peak
    if on_device := jax.devices()[0].memory_stats():
        numbers["device_peak_bytes"] = on_device["peak_bytes_in_use"]
    return numbers


def report(n: dict) -> str:
    """The numbers for people."""
    times, memory_mib = n["times"], {name: f"{size / MIB:,.0f}" for name, size in n["memory"].items()}
    kinds = ", ".join(f"{n['devices'].count(kind)} x {kind}" for kind in dict.fromkeys(n["devices"]))
    lines = {
        "task": f"{n['task']}:{n['preset']}, {n['parameters']:,} parameters, {n['compute']}",
        "device": f"{kinds}, {n['threads']} threads",
        "versions": ", ".join(f"{name} {version}" for name, version in n["versions"].items()),
        "batch": f"{n['examples']} examples of up to {tuple(n['capacity'])}: "
        + ", ".join(f"{name} {shape}" for name, shape in n["batch"].items()),
        "compile": f"{n['trace_s']:.1f} s to trace, {n['compile_s']:.1f} s to compile",
        "memory": f"{memory_mib['total']} MiB: arguments {memory_mib['arguments']} + outputs {memory_mib['outputs']} "
        f"+ temporaries {memory_mib['temporaries']} - aliased {memory_mib['aliased']}",
        **{
            f"peak {dtype}": f"{peak['flops_per_s'] / 1e9:,.0f} GFLOP/s in a product of side {peak['size']}"
            for dtype, peak in n["matmul_peak"].items()
        },
        **{
            f"step {name}": f"{1e3 * t['min']:,.2f} ms at best of {n['rounds']}, {1e3 * t['median']:,.2f} ms median"
            for name, t in times.items()
        },
        "speed": f"{n['examples_per_s']:,.1f} examples/s; {n['step_flops'] / 1e9:,.1f} GFLOP of products per step, "
        f"{n['flops_per_s'] / 1e9:,.0f} GFLOP/s, {n['share_of_peak']:.0%} of the peak",
    }
    if "device_peak_bytes" in n:
        lines["on device"] = f"{n['device_peak_bytes'] / MIB:,.0f} MiB at most since the start"
    if "ratio" in n:
        equal = ", ".join(f"{name} {d:.0e}" for name, d in n["difference"].items())
        lines["equality"] = f"same weights, batch and noise; relative differences: {equal}"
        lines["ratio"] = f"{n['ratio']:.2f} = jaxvae's step / torch's, fastest against fastest"
    if any(t["busy"] for t in times.values()):
        lines["warning"] = "a median is far above its minimum: the machine was busy, measure again"
    return "\n".join(f"{name:14}{text}" for name, text in lines.items())


if __name__ == "__main__":
    cli.run(main)
