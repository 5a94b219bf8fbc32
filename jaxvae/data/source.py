"""What a data set has to offer to be trained on."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

Example = Mapping[str, np.ndarray]
Capacity = tuple[int, ...]


@runtime_checkable
class Source(Protocol):
    """A finite, indexable set of ragged examples.

    An example has sizes (tokens; sets and events; voxels per level). It is padded to a *capacity*: one of a few
    tuples of sizes, so that a step is compiled once per capacity. What changes an example's sizes at random (a
    prefix, a crop) is a *draw*, made here for a whole epoch before batches are planned.

    Attributes:
      capacities: from small to large, increasing in every coordinate; every example fits into the last.
      fingerprint: digest of the data; a run that resumes on other data is refused.
      skipped: names of the inputs that were left out when the data were read, all of them, by reason. Sources that
        were cut from one reading share one mapping, so that a run counts each input once.
    """

    capacities: Sequence[Capacity]
    fingerprint: str
    skipped: Mapping[str, Sequence[str]]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a person would call the example."""
        ...

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """One draw per example for this epoch; a pure function of its arguments."""
        ...

    def sizes(self, draws: np.ndarray) -> np.ndarray:
        """Sizes [n, coordinates] of every example under its draw."""
        ...

    def load(self, index: int, draw: int) -> Example:
        """One example under its draw, unpadded."""
        ...

    def collate(self, examples: Sequence[Example], capacity: Capacity) -> dict[str, np.ndarray]:
        """Examples padded to `capacity` and stacked along a new first axis."""
        ...
