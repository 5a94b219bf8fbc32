"""A trained model beside simpler ways to do its work: over all examples, and group by group."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvae.errors import UserError
from jaxvae.health.ablation import LATENT_NAMES, OWN, UNTRAINED
from jaxvae.stats import Stats, scalars, to_host
from jaxvae.tasks.task import Batch, ComparableTask, example_keys
from jaxvae.train.evaluate_run import OpenRun
from jaxvae.train.precision import products
from jaxvae.train.state import init_variables

# Examples that are named because the model does worst on them.
WORST = 12


def comparison_path(opened: OpenRun, split: str) -> Path:
    """comparison-<split>-<weights>-<step>.json in the run folder."""
    return opened.run.folder / f"comparison-{split}-{opened.weights}-{opened.step}.json"


def compare(opened: OpenRun, split: str = "val") -> dict[str, Any]:
    """Scores of the model, of itself untrained or with other latents, and of the task's baselines.

    Returns:
      `groups`: a list of {`by`, `group`, `examples`, `rows`: {row: {metric: mean}}}, all examples first, then those of
      `task.groups`. `examples`: {name: {metric: value}} with z = the posterior's mean, in the order of the split.

    Raises:
      UserError: if the task has no baselines, or the split does not exist or holds other data than in the training.
    """
    task, source = opened.parts.task, opened.source(split)
    if not isinstance(task, ComparableTask):
        raise UserError(f"task {opened.parts.config.task} has no baselines to be compared with")
    scores = _scores_by_example(opened, task, split)

    def group(by: str, name: str, members: np.ndarray) -> dict[str, Any]:
        rows = {row: _numbers(jax.tree.map(lambda x: x[members].sum(0), stats)) for row, stats in scores.items()}
        return {"by": by, "group": name, "examples": int(members.sum()), "rows": rows}

    groups = [group("", "all", np.ones(len(source), bool))]
    for by, names in task.groups(source).items():
        groups += [group(by, name, np.array(names) == name) for name in sorted(set(names), key=_natural)]
    own = scores[LATENT_NAMES["mean"]]
    each = {source.name(i): _numbers(jax.tree.map(lambda x, i=i: x[i], own)) for i in range(len(source))}
    return {"groups": groups, "examples": each}


def worst(examples: dict[str, dict[str, float | None]], metric: str, count: int = WORST) -> dict[str, float]:
    """{name: value} of the examples with the smallest values of a metric, smallest first."""
    measured = {name: values[metric] for name, values in examples.items() if values[metric] is not None}
    return dict(sorted(measured.items(), key=lambda item: item[1])[:count])


def _scores_by_example(opened: OpenRun, task: ComparableTask, split: str) -> dict[str, Stats]:
    """{row: statistics whose arrays have an axis of the split's examples}."""
    parts, evaluator = opened.parts, opened.parts.evaluator(split)
    baselines = task.baselines(parts.sources, split)
    reconstructions = _reconstructions(opened, task, evaluator.jit)

    @evaluator.jit
    def score(batch, reconstruction):
        def one(batch, reconstruction):
            return task.score(*jax.tree.map(lambda x: x[None], (batch, reconstruction)))

        return jax.vmap(one)(batch, reconstruction)

    scores: dict[str, Stats] = {}
    with products(parts.config):
        for _, batch, other in evaluator.pairs():
            index, valid = np.asarray(batch["index"]), np.asarray(batch["valid"])
            rows = [*reconstructions(batch, other), *((name, batch, f(index)) for name, f in baselines.items())]
            for row, seen, reconstruction in rows:
                found = to_host(score(seen, reconstruction))
                if row not in scores:
                    scores[row] = jax.tree.map(lambda x: np.zeros((len(parts.sources[split]), *x.shape[1:])), found)
                for whole, part in zip(jax.tree.leaves(scores[row]), jax.tree.leaves(found), strict=True):
                    whole[index[valid]] = part[valid]
    return scores


def _reconstructions(opened: OpenRun, task: ComparableTask, jit: Callable) -> Callable[..., Iterator]:
    """(batch, other) -> (row, the batch with the examples that count, reconstructions) of the model itself."""
    trained, untrained = opened.variables, None
    reconstruct = jit(task.reconstruct)

    @jit
    def latents(variables, batch, other):
        def of(batch, z):
            keys = example_keys(opened.key, batch["index"])
            return task.latents(variables, batch, task.draws(keys, batch), z)

        return {z: of(batch, z) for z in OWN} | {"shuffled": of(other, "mean")}

    def rows(batch: Batch, other: Batch) -> Iterator[tuple[str, Batch, Any]]:
        nonlocal untrained
        if untrained is None:
            untrained = {**trained, "params": init_variables(task, opened.parts.config, batch)["params"]}
        for z, latent in latents(trained, batch, other).items():
            valid = batch["valid"] & other["valid"] if z == "shuffled" else batch["valid"]
            yield LATENT_NAMES[z], {**batch, "valid": valid}, reconstruct(trained, batch, latent)
        latent = latents(untrained, batch, other)["mean"]
        yield UNTRAINED, batch, reconstruct(untrained, batch, latent)

    return rows


def _numbers(stats: Stats) -> dict[str, float | None]:
    """Means; None for those of nothing."""
    return {name: None if math.isnan(value) else value for name, value in scalars(stats).items()}


def _natural(name: str) -> list:
    """Numbers in a name are compared as numbers: '17 to 32' comes before '129 to 256'."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
