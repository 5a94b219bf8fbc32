"""Does the latent carry anything? Reconstruction with z from different places, side by side.

A decoder that sees more than z can reconstruct well and ignore z. Then a z that belongs to another example does
no harm, and the row `shuffled` shows it.
"""

from collections.abc import Iterable

import jax

from jaxvae.stats import merge, scalars, to_host
from jaxvae.tasks.task import example_keys

# Where z comes from, in the order of the table.
LATENTS = ("mean", "posterior", "prior", "shuffled")


def ablate(task, variables, batches: Iterable, key) -> dict[str, dict[str, float]]:
    """{where z comes from: {metric: value}} by `task.reconstruct` and `task.score` over all batches.

    `shuffled` rotates z among the examples of a batch, which are of similar size.
    """

    def scores(variables, batch, key):
        draws = task.draws(example_keys(key, batch["index"]), batch)
        return {z: task.score(batch, task.reconstruct(variables, batch, draws, z)) for z in LATENTS}

    scores = jax.jit(scores)
    total = None
    for batch in batches:
        stats = {z: to_host(found) for z, found in scores(variables, batch, key).items()}
        total = stats if total is None else {z: merge(total[z], stats[z]) for z in LATENTS}
    return {z: scalars(total[z]) for z in LATENTS}
