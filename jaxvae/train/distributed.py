"""Several processes that train together, each with its own devices and its own part of every batch."""

import jax

# After so many seconds without a sign of life from a process the others are ended too. What has been saved remains, and
# the same commands go on from there.
HEARTBEAT_S = 30


def initialize(coordinator: str, processes: int, process: int) -> None:
    """Joins the group; to be called before any device is used.

    Args:
      coordinator: host:port of process 0, which listens there.
      processes: number of processes.
      process: this one, from 0.
    """
    jax.distributed.initialize(
        coordinator, num_processes=processes, process_id=process, heartbeat_timeout_seconds=HEARTBEAT_S
    )


def is_first() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Until every process has come to this point."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def anywhere(flag: bool) -> bool:
    """Whether `flag` is true in any process; all of them have to ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(int(flag)).any())
