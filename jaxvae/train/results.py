"""A page of results: what finished runs say of themselves, side by side with their baselines."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvae.errors import UserError
from jaxvae.health.ablation import LATENT_NAMES
from jaxvae.run import Run, read_json, read_rows, write_json, write_text
from jaxvae.tasks import TASKS
from jaxvae.tasks.task import ComparableTask
from jaxvae.train.compare import compare, comparison_path, worst
from jaxvae.train.cost import describe_cost
from jaxvae.train.evaluate_run import OpenRun, open_run
from jaxvae.train.report import number, table, write_curves


def write_results(folders: Sequence[str | Path], page: str | Path, about: str = "", baselines: bool = True) -> Path:
    """Writes `page`, a section per run folder, and the runs' newest pictures beside it.

    Args:
      about: Markdown that goes first.
      baselines: whether runs are compared with the baselines of their task, which takes a model and its data.

    Raises:
      UserError: if a folder is no run, or one that has not ended (it has no report.json), or two have one name.
    """
    page, runs = Path(page), [Run(folder) for folder in folders]
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) < len(names):
        listed = ", ".join(map(str, folders))
        raise UserError(f"{listed}: sections are named after folders, which must have other names")
    for run in runs:
        run.config()
        read_report(run)
    page.parent.mkdir(parents=True, exist_ok=True)
    named = dict(zip(names, runs, strict=True))
    sections = [_section(run, name, page, baselines) for name, run in named.items()]
    if len(runs) > 1:
        sections.insert(0, f"## Side by side\n\n{table(side_by_side(named))}")
    curves = page.with_name(f"{page.stem}-curves.png")
    write_curves(curves, {name: read_rows(run.metrics_path) for name, run in named.items()})
    sections.append(f"## Curves\n\n![Every metric against the step]({curves.name})")
    command = f"python scripts/results.py {','.join(map(str, folders))} --out={page}"
    command += "" if baselines else " --nobaselines"
    introduction = (
        f"# Results: {page.stem}\n\nWritten by `{command}` from finished runs, "
        "whose commands stand with them. The validation set shares no example with training."
    )
    write_text(page, "\n\n".join(filter(None, [introduction, about.strip(), *sections])) + "\n")
    return page


def side_by_side(runs: dict[str, Run]) -> list[dict[str, str]]:
    """A row per metric of the last validation, and one per metric with z of another example; a column per run."""
    columns = {}
    for name, run in runs.items():
        rows = [row for row in read_rows(run.metrics_path) if "val/loss" in row]
        found = {key.removeprefix("val/"): value for key, value in rows[-1].items() if key.startswith("val/")}
        other = next((row for row in read_report(run)["latents"] if row["latent"] == LATENT_NAMES["shuffled"]), {})
        columns[name] = {key: number(value) for key, value in found.items()} | {
            f"{key}, {LATENT_NAMES['shuffled']}": value for key, value in other.items() if key != "latent"
        }
    metrics = dict.fromkeys(key for column in columns.values() for key in column)
    return [{"validation": key, **{name: column.get(key, "-") for name, column in columns.items()}} for key in metrics]


def _section(run: Run, name: str, page: Path, baselines: bool) -> str:
    config, numbers = run.config(), read_report(run)
    rows, data = read_rows(run.metrics_path), read_json(run.folder / "data.json")
    machine, versions = read_json(run.folder / "host.json"), read_json(run.folder / "versions.json")
    skipped = sum(map(len, data["skipped"].values()))
    examples = {split: len(found["examples"]) for split, found in data["splits"].items()}
    hours = sum(row.get("time/step_s") or 0 for row in rows) * config.train.log_every / 3600
    parts = [
        f"## {name}",
        f"```\n{(run.folder / 'command.txt').read_text().strip()}\n```",
        f"{numbers['step']:,} updates, {60 * hours:.0f} minutes of training on {len(machine['devices'])} x "
        f"{machine['devices'][0]} ({machine['cpus']} cores), jax {versions['jax']}, jaxvae {versions['jaxvae']}. "
        f"{examples['train']:,} training and {examples['val']:,} validation examples, {skipped} left out by name.",
        "\n".join(f"* {line}" for line in describe_cost(numbers["cost"], rows)),
    ]
    opened = open_run(run.folder, report=lambda line: None) if baselines else None
    if opened and isinstance(opened.parts.task, ComparableTask):
        parts += _comparison(opened)
    elif numbers["latents"]:
        parts.append(table(numbers["latents"]))
    parts += ["### All metrics", table(metrics(rows))]
    parts += ["### Where it falls short", "\n".join(f"* {line}" for line in shortcomings(rows))]
    for picture in _newest_pictures(run):
        kind = picture.stem.rsplit("-", 1)[0]
        copy = page.with_name(f"{page.stem}-{name}-{kind}.png")
        shutil.copyfile(picture, copy)
        parts.append(f"![{TASKS[config.task].captions.get(kind, kind)}]({copy.name})")
    return "\n\n".join(parts)


def _comparison(opened: OpenRun) -> list[str]:
    """The model beside its baselines; measured now, unless it was before."""
    path, metric = comparison_path(opened, "val"), opened.parts.task.compared_by
    if not path.exists():
        write_json(path, compare(opened))
    found = read_json(path)
    everything, *groups = found["groups"]
    parts = [
        "### All validation examples",
        table([{"": row, **_numbers(scores)} for row, scores in everything["rows"].items()]),
    ]
    for by in dict.fromkeys(group["by"] for group in groups):
        rows = [
            {
                by: g["group"],
                "examples": f"{g['examples']:,}",
                **_numbers({row: s[metric] for row, s in g["rows"].items()}),
            }
            for g in groups
            if g["by"] == by
        ]
        parts += [f"### {metric} by {by}", table(rows)]
    names = ", ".join(f"{name} ({found['examples'][name][metric]:.2f})" for name in worst(found["examples"], metric))
    return [*parts, f"Worst by {metric}: {names}."]


def _numbers(scores: dict[str, float | None]) -> dict[str, str]:
    return {name: number(value) for name, value in scores.items()}


def read_report(run: Run) -> dict[str, Any]:
    """The numbers of a run's report.

    Raises:
      UserError: if there is none.
    """
    path = run.folder / "report.json"
    if not path.exists():
        raise UserError(f"{run.folder} has no report.json: the command of the run, given again, ends it and writes one")
    return read_json(path)


def shortcomings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the log says against the run: a validation loss that was better before, or far from training's."""
    evaluated = [row for row in rows if row.get("val/loss") is not None]
    if not evaluated:
        return ["There is no finite validation loss."]
    best, last = min(evaluated, key=lambda row: row["val/loss"]), evaluated[-1]
    ending = f", and was {best['val/loss']:.4g} at step {best['step']:,}" if best is not last else ", its lowest"
    lines = [f"The validation loss is {last['val/loss']:.4g} at the end{ending}."]
    trained = [row["train/loss"] for row in rows if row.get("train/loss") is not None]
    if trained:
        times = last["val/loss"] / trained[-1]
        lines.append(f"That is {times:.1f} times the {trained[-1]:.4g} of the last interval of training.")
    return lines


def metrics(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row per metric: before training, at the end, and in the last interval of training where it is logged there."""
    evaluated = [row for row in rows if any(name.startswith("val/") for name in row)]
    trained = next((row for row in reversed(rows) if "train/loss" in row), {})
    return [
        {
            "metric": name.removeprefix("val/"),
            "validation, untrained": number(evaluated[0].get(name)),
            "validation": number(value),
            "training": number(trained.get(name.replace("val/", "train/"))),
        }
        for name, value in (evaluated[-1] if evaluated else {}).items()
        if name.startswith("val/")
    ]


def _newest_pictures(run: Run) -> list[Path]:
    newest = {path.stem.rsplit("-", 1)[0]: path for path in sorted((run.folder / "samples").glob("*-???????.png"))}
    return list(newest.values())
