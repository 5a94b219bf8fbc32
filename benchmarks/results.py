"""Writes benchmarks/README.md from the numbers in benchmarks/results, which the other commands here measured.

python benchmarks/results.py
"""

import json
from pathlib import Path

from jaxvae.run import write_text
from jaxvae.train.report import table

HERE = Path(__file__).parent
MIB = 2**20
INTRODUCTION = """# Benchmarks

Written by `python benchmarks/results.py` from `benchmarks/results/*.json`; every table names the commands that
measured it. Two things are compared in turn in one process and by their fastest runs. Measure on an idle machine.
"""
STEP = """## The train step against PyTorch

The same model from PyTorch's fastest stock layers (`torch_<task>.py`): same weights, batch, padding and threads,
AdamW and clipping; equal in losses and norms of gradients before anything is timed. jaxvae's step also keeps an
average of the weights, metrics and a check for numbers that are not finite.
"""
DISPATCH = """## Several updates at once

`train.steps_per_dispatch`: a block of updates as one program against the same updates one by one, ms per update.
"""
IMAGES = """## Signed distance images of glyphs

`data.sdf`: error of the images in px, against the outline drawn 15 times as large; ms per glyph of one loading thread
and of the device; ms per update with everything, and the share of it in which the device waited for a batch. The
largest errors of `analytic` are where two contours share an edge.
"""
ATTENTION = """## Attention

Forward and backward, with a key mask, examples x heads x queries x keys x width of a head: time relative to
PyTorch's `scaled_dot_product_attention`, in brackets MiB of temporary memory. `library` is
`jaxvae.nn.attention.attention` as models call it; the others were considered.
"""


def main() -> None:
    steps = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("step-*.json"))]
    attention = json.loads((HERE / "results" / "attention.json").read_text())
    blocks = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("dispatch-*.json"))]
    images = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("data_glyphs-*.json"))]
    sections = [INTRODUCTION, STEP, steps_table(steps), commands(steps)]
    sections += [DISPATCH, dispatch_table(blocks), commands(blocks)]
    if images:
        sections += [IMAGES, images_table(images), commands(images)]
    sections += [ATTENTION, attention_table(attention), commands([attention])]
    write_text(HERE / "README.md", "\n".join(sections))


def dispatch_table(runs: list[dict]) -> str:
    return table(
        [
            {
                "preset": run["preset"],
                "parameters": f"{run['parameters'] / 1e6:.2f}M",
                "examples x size": f"{run['examples']} x {'x'.join(map(str, run['capacity']))}",
                "updates": str(run["updates"]),
                "one by one": f"{1e3 * run['single']:.1f}",
                "in a block": f"{1e3 * run['block']:.1f}",
                "ratio": f"{run['ratio']:.2f}",
            }
            for run in runs
        ]
    )


def images_table(runs: list[dict]) -> str:
    return table(
        [
            {
                "preset": run["preset"],
                "px": f"{run['size']}, clip {run['clip_px']:g}",
                "data.sdf": way,
                "error, mean": f"{m['mean_px']:.3f}",
                "99 % below": f"{m['p99_px']:.2f}",
                "largest": f"{m['max_px']:.2f}",
                "load, ms": f"{1e3 * m['load_s']:.3f}",
                "glyphs/s": f"{1 / m['load_s']:,.0f}",
                "device, ms": f"{1e3 * m['image_s']:.3f}",
                "update, ms": f"{1e3 * m['update_s']:,.1f}",
                "waiting": f"{m['data_wait']:.1%}",
            }
            for run in runs
            for way, m in run["ways"].items()
        ]
    )


def attention_table(run: dict) -> str:
    by_shape: dict[str, dict] = {}
    for row in run["rows"]:
        by_shape.setdefault("x".join(map(str, row["shape"])), {})[row["variant"]] = row
    return table(
        [
            {
                "shape": shape,
                "torch, ms": f"{rows['torch']['milliseconds']:.1f}",
                **{
                    name: f"{row['ratio']:.2f} [{row['temp_mib']:.0f}]" for name, row in rows.items() if name != "torch"
                },
            }
            for shape, rows in by_shape.items()
        ]
    )


def steps_table(runs: list[dict]) -> str:
    return table(
        [
            {
                "preset": run["preset"],
                "parameters": f"{run['parameters'] / 1e6:.1f}M",
                "examples x size": f"{run['examples']} x {'x'.join(map(str, run['capacity']))}",
                "jaxvae, ms": f"{1e3 * run['times']['jaxvae']['min']:,.0f}",
                "torch, ms": f"{1e3 * run['times']['torch']['min']:,.0f}",
                "ratio": f"{run['ratio']:.2f}",
                "compile, s": f"{run['trace_s'] + run['compile_s']:.0f}",
                "memory, MiB": f"{run['memory']['total'] / MIB:,.0f}",
                "share of matmul peak": f"{run['share_of_peak']:.0%}",
            }
            for run in runs
        ]
    )


def commands(runs: list[dict]) -> str:
    machines = {f"{', '.join(r['devices'])} with {r['threads']} threads; {versions(r)}" for r in runs}
    return f"\nOn {' and '.join(sorted(machines))}:\n\n```\n" + "\n".join(r["command"] for r in runs) + "\n```\n"


def versions(run: dict) -> str:
    named = [f"{name} {version}" for name, version in run["versions"].items()]
    return ", ".join([*named, *(f"{name}={value}" for name, value in run["environment"].items())])


if __name__ == "__main__":
    main()
