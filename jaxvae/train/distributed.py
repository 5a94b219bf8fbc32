"""Several processes that train together, each with its own devices and its own part of every batch.

They share the run folder, in which the first of them alone writes logs. Whatever one knows and the others do not (a
signal, an error, a damaged file) has to be agreed upon, because a step needs all of them: who waits for one that does
something else waits for ever.
"""

import contextlib
import socket
import time
import zlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxvae.errors import UserError

# After so many seconds without a sign of life from a process the others are ended too, within as many seconds more.
# What has been saved remains, and the same commands go on from there.
HEARTBEAT_S = 30
# So long the processes wait for each other at the start.
START_S = 300


def initialize(coordinator: str, processes: int, process: int, heartbeat_s: int = HEARTBEAT_S) -> None:
    """Joins the group; to be called before any device is used.

    Args:
      coordinator: host:port of process 0, which listens there.
      processes: number of processes.
      process: this one, from 0.
      heartbeat_s: takes the place of `HEARTBEAT_S`; the same in all processes.

    Raises:
      UserError: if an argument cannot work, or process 0 cannot listen, or cannot be reached.
    """
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--coordinator={coordinator}: must be host:port of process 0, such as 10.0.0.1:1234")
    if processes < 1:
        raise UserError(f"--processes={processes}: must be a whole number above 0")
    if not 0 <= process < processes:
        raise UserError(f"--process={process}: must be from 0 to {processes - 1}, as --processes={processes}")
    if heartbeat_s < 1:
        raise UserError(f"--heartbeat_s={heartbeat_s}: must be a whole number of seconds above 0")
    _check_port(coordinator, host, int(port), listens=process == 0)
    jax.distributed.initialize(
        coordinator,
        num_processes=processes,
        process_id=process,
        cluster_detection_method="deactivate",  # the arguments say it all
        initialization_timeout=START_S,
        heartbeat_timeout_seconds=heartbeat_s,
        # A process that fails alone waits for the others before it ends: not longer than for a dead one.
        shutdown_timeout_seconds=heartbeat_s,
    )
    wait_for_all("start")


def _check_port(coordinator: str, host: str, port: int, listens: bool) -> None:
    """Tries the port, and waits until process 0 listens there; jax itself would end the process with a stack trace."""
    if listens:
        try:
            return socket.create_server(("", port)).close()
        except OSError as error:
            raise UserError(f"--coordinator={coordinator}: process 0 cannot listen there ({error})") from None
    since = time.monotonic()
    while True:
        try:
            return socket.create_connection((host, port), timeout=START_S).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() - since > START_S:
                raise UserError(
                    f"--coordinator={coordinator} cannot be reached ({error}): is process 0 there?"
                ) from None
        time.sleep(0.1)


def is_first() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Until every process has come to this point."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def from_all(value: np.ndarray) -> np.ndarray:
    """The arrays of all processes, stacked in their order along a new first axis; all of them have to ask."""
    if jax.process_count() == 1:
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value))


def anywhere(flag: bool) -> bool:
    """Whether `flag` is true in any process; all of them have to ask."""
    return bool(from_all(np.array(flag, np.int32)).any())


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What is done inside succeeds in all processes or fails in all; nothing inside may wait for another process.

    Raises:
      UserError: if it failed elsewhere alone; the reason is told there.
    """
    failed = True
    try:
        yield
        failed = False
    finally:
        failed_somewhere = anywhere(failed)
    if failed_somewhere:
        raise UserError("another of the processes cannot go on: it says why")


def check_alike(values: Mapping[str, str]) -> None:
    """Compares what should be the same in all processes.

    Raises:
      UserError: naming the first that is not.
    """
    mine = np.array([zlib.crc32(value.encode()) for value in values.values()], np.uint32)
    for name, different in zip(values, np.ptp(from_all(mine).astype(np.int64), axis=0) > 0, strict=True):
        if different:
            raise UserError(f"the processes have been started with different {name}: give all of them the same")


def connect(mesh: Mesh) -> None:
    """Lets every group of devices that a step may use exchange something once.

    On CPUs the first exchange of a group fails if its members come to it more than 30 s apart, and compiling a step
    may take one process so much longer than another that has it in its cache.
    """
    if jax.process_count() == 1:
        return
    groups = [*mesh.axis_names, mesh.axis_names]

    def exchange(x):
        return [jax.lax.psum(x, group) for group in groups]

    split = PartitionSpec(mesh.axis_names)
    exchange = jax.shard_map(exchange, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    jax.block_until_ready(jax.jit(exchange)(np.ones(mesh.size, np.float32)))
