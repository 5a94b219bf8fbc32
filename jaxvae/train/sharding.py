"""One mesh, one rule: the batch is split over all devices, parameters over the axis `fsdp`."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvae.config import require

# Arrays below this many elements are replicated: splitting them costs more than it saves.
SMALL = 2**16


def make_mesh(config) -> Mesh:
    """A mesh with axes `data` and `fsdp` over all devices of the process group.

    Raises:
      UserError: if `parallel.data` x `parallel.fsdp` is not the number of devices.
    """
    devices = jax.device_count()
    fsdp = config.parallel.fsdp
    require(config, "parallel.fsdp", devices % fsdp == 0, f"must divide the number of devices, {devices}")
    data = config.parallel.data or devices // fsdp
    what = f"times config.parallel.fsdp = {fsdp} must be the {devices} devices (0 = all that fsdp leaves)"
    require(config, "parallel.data", data * fsdp == devices, what)
    # Auto axes: the compiler places what the rule below leaves open. The default (Explicit) refuses Flax modules.
    # In the order of jax.devices, where those of a process stand together: so each holds one slice of a batch.
    return Mesh(np.array(jax.devices()).reshape(data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples (the leading axis) are split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, shapes):
    """Shardings for a tree of arrays: the largest axis that `fsdp` divides is split; small arrays are replicated.

    The rule looks at a shape alone, so a parameter, its optimizer moments and its averages are split alike.
    """
    size = mesh.shape["fsdp"]

    def rule(leaf):
        spec = [None] * len(leaf.shape)
        if size > 1 and np.prod(leaf.shape, dtype=np.int64) >= SMALL:
            divisible = [axis for axis, n in enumerate(leaf.shape) if n % size == 0]
            if divisible:
                spec[max(divisible, key=lambda axis: leaf.shape[axis])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, shapes)


def whole(tree, mesh: Mesh):
    """Arrays, those that are split put together again on every device, also inside of a jitted function.

    For weights that meet a batch. Left to itself the compiler splits such a computation as the weights are split, and
    sends activations around instead of weights.
    """
    return tree if mesh.shape["fsdp"] == 1 else jax.lax.with_sharding_constraint(tree, replicated(mesh))


def block_sharding(mesh: Mesh) -> NamedSharding:
    """Several batches in one array: the second axis is that of the examples."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def local_rows(mesh: Mesh, rows: int) -> slice:
    """The rows of a batch of `rows` that lie on devices of this process."""
    mine = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    per_device = rows // mesh.devices.size
    return slice(mine[0] * per_device, (mine[-1] + 1) * per_device)


def put(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Copies this process's rows of a batch, or of a block of them, to its devices; returns before it is done."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
