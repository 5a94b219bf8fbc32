"""Updates under way: sent to the devices ahead, looked at when they are done."""

import collections

import jax

from jaxvae.errors import UserError
from jaxvae.train.recorder import Recorder
from jaxvae.train.setup import Setup

# Blocks that may wait on the device: enough that it never idles, few enough that batches do not pile up.
IN_FLIGHT = 2


class Updates:
    """Sends blocks of updates to the devices, a few at most at once, and looks at those that are done."""

    def __init__(self, setup: Setup, recorder: Recorder):
        self.setup, self.recorder = setup, recorder
        self.in_flight: collections.deque[tuple[jax.Array, int]] = collections.deque()
        self.ready: set[tuple[tuple[int, ...], int]] = set()  # capacities and sizes of blocks that are compiled

    def send(self, block: range, batch: dict) -> None:
        """Starts the updates of a block; waits for the oldest ones under way if there are too many.

        Raises:
          UserError: if too many updates in a row were not finite.
        """
        setup, compilations = self.setup, self.setup.parts.compilations
        planned = [setup.parts.plan.batch(step) for step in block]
        program = (planned[0].capacity, len(block))
        if program not in self.ready:
            # Updates under way are training, and what follows is compilation.
            jax.block_until_ready(setup.state.step)
            self.ready.add(program)
        several = f", {len(block)} updates at once," if len(block) > 1 else ""
        before = compilations.seconds
        with compilations.of(f"the step for examples of up to {planned[0].capacity}{several}"):
            setup.state, stats, skips = setup.dispatch(setup.state, block, batch)
        self.recorder.pause(compilations.seconds - before)
        self.recorder.add(stats)
        self.in_flight.append((skips, sum(len(p.indices) for p in planned)))
        if len(self.in_flight) > IN_FLIGHT:
            skips, examples = self.in_flight.popleft()
            self._check_skips(skips)
            self.recorder.completed(examples)

    def check(self) -> None:
        """Waits for what is under way.

        Raises:
          UserError: if too many updates in a row were not finite.
        """
        for skips, _ in self.in_flight:
            self._check_skips(skips)

    def finish(self) -> None:
        """Counts the examples of what was under way at the end."""
        for _, examples in self.in_flight:
            self.recorder.completed(examples)

    def _check_skips(self, skips: jax.Array) -> None:
        setup, in_a_row = self.setup, int(skips)
        allowed = setup.parts.config.train.max_skips
        if not allowed or in_a_row < allowed:
            return
        # What is skipped changes no weight: the state is as good as before the first of them.
        steps = setup.checkpoints.steps()
        last, start = "there is no checkpoint yet", ""
        if steps:
            last = f"the newest checkpoint is of step {steps[-1]}"
            start = f", with config.init_from.path = {setup.run.folder}"
        raise UserError(
            f"{in_a_row} updates in a row were not finite (config.train.max_skips = {allowed}), before step "
            f"{int(setup.state.step)}: {last}; try a lower config.optim.lr, config.optim.clip.norm > 0 or "
            f"config.precision.compute = float32 in another --workdir{start}"
        )
