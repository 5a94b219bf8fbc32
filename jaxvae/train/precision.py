"""How exactly products are computed."""

import contextlib

import jax


def products(config) -> contextlib.AbstractContextManager:
    """While a function is traced: its products by `precision.products`.

    `default` lets accelerators shorten float32 products (TF32, or passes of bfloat16); `highest` does not.
    """
    if config.precision.products == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(config.precision.products)
