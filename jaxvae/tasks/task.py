"""The contract between a system and the trainer.

A task binds a model, its losses, metrics and pictures. All methods except `sources` are pure functions that are
traced: `variables` is the dictionary of Flax collections (`params` and whatever else the model has), `batch` a
dictionary of arrays with a leading example axis, among them `valid` (False = padding, which must not change
anything) and `index` (the example's place in its source).

Random numbers are *drawn once for the whole batch*, one key per example, by `draws`; micro-batches, first passes
and ablations get slices of the same draws. So neither the number of micro-batches nor that of devices changes
what an example sees, and recorded noise can be put in place of the draws.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jaxvae.data.source import Source
from jaxvae.stats import Stats

Variables = dict[str, Any]
Batch = dict[str, jax.Array]
Draws = dict[str, jax.Array]
Picture = Any  # float array [height, width] or [height, width, 3] in [0, 1]; row 0 is the top


class Aux(NamedTuple):
    """What a training pass reports beside its loss terms.

    Attributes:
      stats: metrics, additive.
      additions: what the model's own collections (an EMA codebook, running averages) are updated from: additive
        arrays, summed over micro-batches and devices before `update` sees them. {} for most.
    """

    stats: Stats
    additions: Mapping[str, Any] = {}  # a pytree, and never written to


@runtime_checkable
class Task(Protocol):
    """What a system provides.

    Attributes:
      captions: what is to be seen in each picture of `show`, by its name.
      batch_coupled: why a micro-batch alone cannot know its share of the loss, even with `totals` (contrastive
        terms, batch normalisation); '' where it can. Such a task is refused with `optim.accum` > 1.
      float16_unsafe: why the model cannot be trained in float16; '' where it can.
    """

    captions: dict[str, str]
    batch_coupled: str
    float16_unsafe: str

    def sources(self, report) -> dict[str, Source]:
        """{'train': ..., 'val': ...}. `report(line)` says what was read and what was left out."""
        ...

    def statistics(self, sources: dict[str, Source]) -> dict[str, Any]:
        """Constants measured on the training data, kept as the collection `statistics` with the weights."""
        ...

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        """Fresh variables without `statistics`."""
        ...

    def draws(self, keys: jax.Array, batch: Batch) -> Draws:
        """All random numbers of a pass, from one key per example [B]; arrays with a leading example axis."""
        ...

    def totals(self, variables: Variables, batch: Batch, draws: Draws, step) -> Stats:
        """Additive quantities of the whole batch that `terms` needs as constants; called on micro-batches."""
        ...

    def terms(
        self, variables: Variables, batch: Batch, draws: Draws, totals: Stats | None, step
    ) -> tuple[dict[str, jax.Array], Aux]:
        """Weighted loss terms, as this (micro-)batch's share of the whole batch's: they sum over micro-batches.

        `totals` is None when the batch at hand is the whole batch. `step` is 1 at the first update.
        """
        ...

    def evaluate(self, variables: Variables, batch: Batch, draws: Draws, step) -> Stats:
        """Metrics as additive statistics; `step` is the number of updates made."""
        ...

    def summarize(self, stats: Stats) -> dict[str, float]:
        """Numbers from the merged statistics of `evaluate` (the only place where they are divided)."""
        ...

    def show(self, variables: Variables, batch: Batch, draws: Draws) -> dict[str, Picture]:
        """Pictures of what the model does with these examples."""
        ...


@runtime_checkable
class UpdatingTask(Task, Protocol):
    """A task whose model has collections that training changes without a gradient."""

    def update(self, collections: dict[str, Any], additions: Mapping[str, Any]) -> dict[str, Any]:
        """The collections after an update, from the `additions` of the whole batch."""
        ...


@runtime_checkable
class LatentVariableTask(Task, Protocol):
    """A task whose model reconstructs examples from latents: what ablations and diagnosis call."""

    def latents(self, variables: Variables, batch: Batch, draws: Draws, z: str) -> Any:
        """A latent for every example: the posterior's 'mean', or a draw from the 'posterior' or the 'prior'.

        Arrays with a leading example axis. Those of one batch can be handed to `reconstruct` with another batch of
        the same capacity.
        """
        ...

    def reconstruct(self, variables: Variables, batch: Batch, latents: Any) -> Any:
        """Outputs for the examples of `batch` from `latents`."""
        ...

    def score(self, batch: Batch, reconstruction: Any) -> Stats:
        """How well a reconstruction agrees with the batch, as additive statistics."""
        ...


@runtime_checkable
class ComparableTask(LatentVariableTask, Protocol):
    """A task whose reconstructions can be set beside those of something simpler, group by group.

    Attributes:
      compared_by: the metric of `score` by which groups are compared; larger is better.
    """

    compared_by: str

    def groups(self, source: Source) -> dict[str, list[str]]:
        """{what examples are grouped by: the group of every example of `source`}."""
        ...

    def baselines(self, sources: dict[str, Source], split: str) -> dict[str, Callable[[np.ndarray], Any]]:
        """{name: what gives reconstructions for examples of `split`, by their indices [B]}, without the model."""
        ...


def example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key per example [B]: `key` with each entry of `index` folded in."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
