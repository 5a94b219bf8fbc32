"""Does the latent carry anything? Reconstruction with z from different places, side by side.

A decoder that sees more than z can reconstruct well and ignore z. Then a z that belongs to another example does
no harm, and the row `shuffled` shows it.
"""

from jaxvae.stats import Stats
from jaxvae.tasks.task import LatentVariableTask, example_keys

# Where z comes from, and what tables call it, in their order. The first three are the example's own, by `task.latents`.
LATENT_NAMES = {
    "mean": "z = posterior mean",
    "posterior": "z drawn from the posterior",
    "prior": "z drawn from the prior",
    "shuffled": "z of another example",
}
OWN = ("mean", "posterior", "prior")
# What tables call a model before its first update.
UNTRAINED = "untrained, z = posterior mean"


def latent_scores(task: LatentVariableTask, variables, key, batch, other) -> dict[str, Stats]:
    """{where z comes from: statistics by `task.score`} of a batch.

    Args:
      key: what is drawn belongs to it and to the examples, not to the batch.
      other: a batch of the same capacity with another example in every row, whose posterior means are the `shuffled` z.
        Rows that are not valid in it are left out of that row of the table.
    """

    def latents(batch, z):
        draws = task.draws(example_keys(key, batch["index"]), batch)
        return task.latents(variables, batch, draws, z)

    def score(batch, z):
        return task.score(batch, task.reconstruct(variables, batch, z))

    found = {z: score(batch, latents(batch, z)) for z in OWN}
    exchanged = {**batch, "valid": batch["valid"] & other["valid"]}
    return found | {"shuffled": score(exchanged, latents(other, "mean"))}
