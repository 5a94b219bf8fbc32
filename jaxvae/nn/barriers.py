"""Barriers against fusion: what stands before one is computed once and kept, not again in each of its users.

XLA's CPU compiler fuses cheap operations into every user. The gradient of a transformer's residual stream is a
chain of such operations through all blocks, and the weight gradient of every layer computed its part of the
chain again, transposed and with strided reads: a step took 1.4 to 1.8 times as long.
"""

import jax


@jax.custom_jvp
def materialize_gradient(x: jax.Array) -> jax.Array:
    """`x` itself; its gradient is computed once and kept."""
    return x


@materialize_gradient.defjvp
def _(primals, tangents):
    return primals[0], jax.lax.optimization_barrier(tangents[0])


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit` under which barriers hold on every kind of device.

    The CPU compiler by itself removes them before it fuses. If a later XLA renames that pass, naming it here does
    nothing, and a test says so.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if jax.default_backend() == "cpu" else {}
