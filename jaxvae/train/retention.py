"""Which checkpoints are kept for what their weights are worth."""

from collections.abc import Mapping, Sequence

from orbax.checkpoint import checkpoint_managers as policies


class BestValues(policies.PreservationPolicy):
    """Keeps the `count` checkpoints with the best values.

    Args:
      mode: 'min' or 'max', what best means.
      values: {step: value}, to which its owner adds; a checkpoint that is not in it is never among the best.
    """

    def __init__(self, count: int, mode: str, values: Mapping[int, float]):
        self.count, self.sign, self.values = count, {"min": 1, "max": -1}[mode], values

    def should_preserve(self, checkpoints: Sequence, *, context: policies.PreservationContext) -> Sequence[bool]:
        """Whether each of `checkpoints` is among the best; of equals the later ones are."""
        del context
        steps = [info.step for info in checkpoints if info.step in self.values]
        best = set(sorted(steps, key=lambda step: (self.sign * self.values[step], -step))[: self.count])
        return [info.step in best for info in checkpoints]
