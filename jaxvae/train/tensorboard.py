"""TensorBoard's writer, without torch."""

import sys
from pathlib import Path


def summary_writer(folder: Path, step: int):
    """A tensorboardX `SummaryWriter` for `folder`, of a run that goes on from the checkpoint at `step` (0 = from none).

    What an earlier start wrote after the checkpoint is hidden. A first start says so too: TensorBoard takes the first
    such event of a folder for the beginning and heeds only those that follow.

    tensorboardX imports torch, for nothing but a type, wherever it is installed: seconds, gigabytes and a claim on
    the GPU. So torch is hidden from it while it is imported.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    # Without a checkpoint step 0 is recorded again. Flushed every second, because a killed process takes with it what
    # was not, and a run that goes on from a checkpoint does not write the events before it again.
    return SummaryWriter(str(folder), flush_secs=1, purge_step=step + 1 if step else 0)
