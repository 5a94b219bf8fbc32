"""Does the latent carry anything? Reconstruction with z from different places, side by side.

A decoder that sees more than z can reconstruct well and ignore z. Then a z that belongs to another example does
no harm, and the row `shuffled` shows it.
"""

import functools
from collections.abc import Iterable

import jax

from jaxvae.stats import accumulate, scalars
from jaxvae.tasks.task import LatentVariableTask, example_keys

# Where z comes from, in the order of the table. The first three are the example's own, by `task.latents`.
OWN = ("mean", "posterior", "prior")
LATENTS = (*OWN, "shuffled")


def ablate(task: LatentVariableTask, variables, pairs: Iterable, key, place=None) -> dict[str, dict[str, float]]:
    """{where z comes from: {metric: value}} by `task.score` over all examples.

    Args:
      pairs: batches, each with one of other examples (`jaxvae.train.evaluate.Evaluator.pairs`), whose posterior
        means are the `shuffled` z. Examples without another one are left out of that row.
      place: sharding of the statistics, from which every process has to see all; None leaves it to the compiler.
    """

    def latents(variables, batch, key, z):
        draws = task.draws(example_keys(key, batch["index"]), batch)
        return task.latents(variables, batch, draws, z)

    @functools.partial(jax.jit, out_shardings=place)
    def scores(variables, batch, other, key):
        def score(batch, z):
            return task.score(batch, task.reconstruct(variables, batch, z))

        found = {z: score(batch, latents(variables, batch, key, z)) for z in OWN}
        exchanged = {**batch, "valid": batch["valid"] & other["valid"]}
        return found | {"shuffled": score(exchanged, latents(variables, other, key, "mean"))}

    totals = accumulate(scores(variables, batch, other, key) for batch, other in pairs)
    return {z: scalars(totals[z]) for z in LATENTS}
