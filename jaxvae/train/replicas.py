"""Are the copies of the state on all devices still the same?

They are by construction. A device that computes wrongly, or a program that treats devices differently, makes them
drift apart, and nothing else notices.
"""

import collections
from typing import Any

import jax
import numpy as np

from jaxvae.errors import UserError
from jaxvae.train.digest import digest_array
from jaxvae.train.patterns import by_name


def check_replicas(tree: Any) -> None:
    """Compares the digests of what several devices hold alike; waits for the arrays.

    Raises:
      UserError: if two copies differ; the message names the array and the devices.
    """
    for name, leaf in by_name(tree).items():
        copies = collections.defaultdict(dict)
        for shard in leaf.addressable_shards:
            copies[str(shard.index)][int(digest_array(shard.data))] = shard.device
        for found in copies.values():
            if len(found) > 1:
                raise _apart(name, " and ".join(str(device) for device in found.values()))
    if jax.process_count() > 1:
        _check_processes(tree)


def _check_processes(tree: Any) -> None:
    from jax.experimental import multihost_utils

    whole = {name: leaf for name, leaf in by_name(tree).items() if leaf.is_fully_replicated}
    mine = np.array([int(digest_array(leaf.addressable_shards[0].data)) for leaf in whole.values()], np.uint32)
    everyone = multihost_utils.process_allgather(mine)
    for name, digests in zip(whole, everyone.T, strict=True):
        if len(set(digests.tolist())) > 1:
            raise _apart(name, "the processes")


def _apart(name: str, where: str) -> UserError:
    return UserError(
        f"the copies of {name} on {where} differ: a device computes wrongly; the last checkpoint is from before, so "
        "give the same command on other devices"
    )
