"""The report at the end of a run: numbers beside their baselines, curves, pictures."""

import functools
import math
from io import BytesIO
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from jaxvae.config import flatten
from jaxvae.health.ablation import LATENT_NAMES, UNTRAINED, latent_scores
from jaxvae.run import read_rows, write_json, write_text
from jaxvae.stats import scalars
from jaxvae.tasks.task import LatentVariableTask
from jaxvae.train.cost import describe_cost, measure_cost
from jaxvae.train.distributed import is_first
from jaxvae.train.precision import products

# How a split is drawn: the same in every plot, also where the other is missing.
CURVES = {"train": {"lw": 1}, "val": {"lw": 1, "ls": "--", "marker": "o", "ms": 3}}


def write_report(setup) -> Path:
    """Writes report.md, report.json and curves.png into the run folder and returns the report's path.

    All processes have a part in the numbers, and the first one writes.
    """
    run, parts = setup.run, setup.parts
    config, path = parts.config, run.folder / "report.md"
    ablation = _ablation(setup) if isinstance(parts.task, LatentVariableTask) else None
    if not is_first():
        return path
    rows = read_rows(run.metrics_path)
    write_curves(run.folder / "curves.png", {"": rows})
    pictures = sorted((run.folder / "samples").glob("*.png"))
    command = (run.folder / "command.txt").read_text().strip()
    latents = latent_rows(ablation, rows) if ablation else []
    cost = measure_cost(setup)
    write_json(run.folder / "report.json", {"step": int(setup.state.step), "latents": latents, "cost": cost})
    sections = [
        f"# {config.task}:{config.preset}",
        f"{int(setup.state.step):,} updates of up to {config.data.batch_size} examples, "
        f"{len(parts.sources['train']):,} training and {len(parts.sources['val']):,} validation examples, "
        f"weights: {config.train.eval_weights}.",
        f"```\n{command}\n```",
        *(_latents(latents) if latents else ()),
        "## Validation, first and last",
        table(first_and_last(rows)),
        "## Cost",
        "\n".join(f"- {line}" for line in describe_cost(cost, rows)),
        "## Curves",
        "![curves](curves.png)",
        "## Pictures",
        *[f"{path.stem}:\n\n![{path.stem}](samples/{path.name})" for path in _first_and_last_of_each(pictures)],
        "## Notes",
        "\n".join(f"- {note}" for note in setup.notes),
        "## Configuration",
        table([{"key": key, "value": repr(value)} for key, value in flatten(config).items()]),
    ]
    write_text(path, "\n\n".join(sections) + "\n")
    return path


def _ablation(setup) -> dict[str, dict[str, float]]:
    parts = setup.parts
    variables = parts.variables(setup.state, parts.config.train.eval_weights)
    scores = functools.partial(latent_scores, parts.task)
    with products(parts.config):
        totals = setup.evaluator.sum_pairs("the ablation", scores, variables, setup.state.key)
    return {z: scalars(totals[z]) for z in LATENT_NAMES}


def _latents(rows: list[dict[str, str]]) -> list[str]:
    return [
        "## Does the latent matter?",
        "Validation examples, reconstructed with z from different places. If a z of another example does as "
        "well as the right one, the decoder does not use z. `untrained` is the model before its first update.",
        table(rows),
    ]


def latent_rows(ablation: dict[str, dict[str, float]], rows: list[dict]) -> list[dict[str, str]]:
    """The ablation, and the untrained model's validation at step 0 in the same columns."""
    names = list(ablation["mean"])
    table = [
        {"latent": text, **{name: number(ablation[z][name]) for name in names}} for z, text in LATENT_NAMES.items()
    ]
    start = next((row for row in rows if row["step"] == 0), {})
    untrained = {name: number(start.get(f"val/{name}")) for name in names}
    return [*table, {"latent": UNTRAINED, **untrained}]


def first_and_last(rows: list[dict]) -> list[dict[str, str]]:
    """A row per validation metric, with its value at the first and at the newest evaluation."""
    evaluated = [row for row in rows if any(name.startswith("val/") for name in row)]
    if not evaluated:
        return []
    first, last = evaluated[0], evaluated[-1]
    names = [name for name in last if name.startswith("val/")]
    steps = [f"step {first['step']}", f"step {last['step']}"]
    return [
        {"metric": name.removeprefix("val/"), steps[0]: number(first.get(name)), steps[1]: number(last[name])}
        for name in names
    ]


def write_curves(path: Path, runs: dict[str, list[dict]]) -> None:
    """One small plot per metric with the rows of all runs, training and validation in the same axes.

    Args:
      runs: rows of the log, by the name of the run; '' for one that needs none.
    """
    every = [row for rows in runs.values() for row in rows]
    names = sorted({name.split("/", 1)[1] for row in every for name in row if name.startswith(("train/", "val/"))})
    columns = 4
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * max(lines, 1)), layout="constrained")
    FigureCanvasAgg(figure)
    curves = [(run, split) for run in runs for split in CURVES]
    drawn = {}
    for i, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.set_title(name, fontsize=9)
        for number, (run, split) in enumerate(curves):
            points = [(row["step"], value) for row in runs[run] if (value := row.get(f"{split}/{name}")) is not None]
            if points:
                # Runs differ by colour where there are several, and splits where there is one.
                color = f"C{number // len(CURVES) if len(runs) > 1 else number}"
                label = " ".join(filter(None, (run, split)))
                (drawn[label],) = axes.plot(*zip(*points, strict=True), color=color, **CURVES[split])
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.set_xlabel("step", fontsize=7)
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=columns, fontsize=8)
    picture = BytesIO()
    figure.savefig(picture, dpi=80)
    # 256 colours are enough for lines and letters, and make the file several times smaller.
    Image.open(picture).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table; all rows have the keys of the first."""
    if not rows:
        return "(nothing)"
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *[[row[name] for name in head] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Four digits; '-' for what was not measured, or on nothing."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _first_and_last_of_each(pictures: list[Path]) -> list[Path]:
    """Of every kind of picture the first and the newest."""
    kinds: dict[str, list[Path]] = {}
    for path in pictures:
        kinds.setdefault(path.stem.rsplit("-", 1)[0], []).append(path)
    return [path for group in kinds.values() for path in dict.fromkeys((group[0], group[-1]))]
