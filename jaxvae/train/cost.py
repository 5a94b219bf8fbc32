"""What a training took of the machine: parameters, memory, time."""

import resource
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxvae.train.build import count_parameters

MIB = 2**20


def measure_cost(setup) -> dict[str, Any]:
    """Plain numbers of a training that has just ended, in this process.

    Returns:
      `parameters`, trained and frozen; `state_bytes` of weights, moments, averages and the rest of the state, over all
      devices; `updates_per_epoch`; `host_peak_bytes`, the most memory that the process held; `device_peak_bytes`, the
      most on one device, None where jax does not say (CPUs: there it is in the host's).
    """
    state = setup.state
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    # Kibibytes, but for macOS, which says bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "parameters": count_parameters((state.params, state.frozen)),
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state) if hasattr(leaf, "nbytes")),
        "updates_per_epoch": setup.parts.plan.steps_per_epoch,
        "host_peak_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "device_peak_bytes": max((peak for peak in peaks if peak), default=None),
    }


def describe_cost(cost: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines about the cost and, from the rows of the log, about time: its fastest interval too, as cores are shared."""
    steps = [row["time/step_s"] for row in rows if row.get("time/step_s")]
    lines = [
        f"{cost['parameters']:,} parameters; the state (weights, moments, averages) has {_mib(cost['state_bytes'])}; "
        f"the process held {_mib(cost['host_peak_bytes'])} at most"
        + (f", a device {_mib(cost['device_peak_bytes'])}" if cost["device_peak_bytes"] else "")
        + "."
    ]
    if steps:
        fastest, median, updates = min(steps), float(np.median(steps)), cost["updates_per_epoch"]
        lines.append(
            f"An update took {1e3 * fastest:.0f} ms in the fastest interval of the log, {1e3 * median:.0f} ms in the "
            f"median one; an epoch of {updates:,} updates {fastest * updates:.0f} s at the fastest."
        )
    waits = [row["time/data_wait"] for row in rows if row.get("time/data_wait") is not None]
    if waits:
        lines.append(f"{100 * float(np.median(waits)):.1f} % of the time went into waiting for data (median interval).")
    return lines


def _mib(count: int) -> str:
    return f"{count / MIB:,.0f} MiB"
