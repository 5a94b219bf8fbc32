"""Are the copies of the state on all devices still the same?

They are by construction. A device that computes wrongly, or a program that treats devices differently, makes them
drift apart, and nothing else notices.
"""

import collections
import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvae.errors import UserError
from jaxvae.train.digest import digest_array
from jaxvae.train.patterns import by_name


def check_replicas(tree: Any) -> None:
    """Compares the digests of what several devices hold alike, also those of other processes; waits for the arrays.

    Args:
      tree: arrays that lie on one mesh.

    Raises:
      UserError: if two copies differ; the message names the array and the devices.
    """
    leaves = by_name(tree)
    mesh = next(iter(leaves.values())).sharding.mesh
    specs = tuple(leaf.sharding.spec for leaf in leaves.values())
    found = jax.device_get(_digests(list(leaves.values()), mesh, specs))
    devices = mesh.devices.flatten().tolist()
    for (name, leaf), digests in zip(leaves.items(), found, strict=True):
        part = leaf.sharding.devices_indices_map(leaf.shape)
        copies = collections.defaultdict(dict)
        for device, digest in zip(devices, digests.tolist(), strict=True):
            copies[str(part[device])].setdefault(digest, device)
        for different in copies.values():
            if len(different) > 1:
                raise UserError(
                    f"the copies of {name} on {' and '.join(map(str, different.values()))} differ: a device computes "
                    "wrongly; remove the checkpoints since the last check (config.train.replica_check_every) and give "
                    "the same command on other devices"
                )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _digests(leaves: list[jax.Array], mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> jax.Array:
    """The digest of what each device holds of each array, uint32 [arrays, devices]."""
    per_device = PartitionSpec(None, mesh.axis_names)

    def local(leaves):
        return jax.numpy.stack([digest_array(leaf) for leaf in leaves])[:, None]

    digests = jax.shard_map(local, mesh=mesh, in_specs=(list(specs),), out_specs=per_device, check_vma=False)(leaves)
    return jax.lax.with_sharding_constraint(digests, NamedSharding(mesh, PartitionSpec()))
