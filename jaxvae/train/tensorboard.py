"""TensorBoard's writer, without torch."""

import sys
from pathlib import Path


def summary_writer(folder: Path, step: int):
    """A tensorboardX `SummaryWriter` for `folder`; what an earlier start wrote after `step` is hidden.

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
    return SummaryWriter(str(folder), flush_secs=30, purge_step=step + 1)
