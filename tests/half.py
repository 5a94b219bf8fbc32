"""What a traced function does in half precision."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

HALF = (jnp.bfloat16, jnp.float16)
# Where few bits do harm: sums, what is compared over many (softmax, nearest codes), statistics of norms, likelihoods.
DELICATE = {
    *("reduce_sum", "reduce_prod", "cumsum", "cumprod", "cumlogsumexp", "scatter-add", "reduce_window_sum"),
    *("reduce_max", "reduce_min", "argmax", "argmin"),
    *("rsqrt", "sqrt", "log", "log1p", "logistic", "erf_inv"),
}


def delicate_in_half(function, *args) -> set[str]:
    """The operations of `function(*args)`, gradients included, that are delicate and take half precision.

    Sums over nothing (an axis of one) are none. Each as 'reduce_sum bfloat16[8,24,16] glyph_vae.py:114'.
    """
    return set(_walk(jax.make_jaxpr(function)(*args).jaxpr))


def _walk(jaxpr: Jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        taken = [x.aval for x in equation.invars if getattr(x.aval, "dtype", None) in HALF]
        if taken and equation.primitive.name in DELICATE and not _trivial(equation):
            yield f"{equation.primitive.name} {taken[0].str_short()} {_place(equation)}"
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from _walk(getattr(inner, "jaxpr", inner))


def _trivial(equation: Any) -> bool:
    """Reductions over axes of one."""
    name, before, after = equation.primitive.name, equation.invars[0].aval, equation.outvars[0].aval
    return name.startswith("reduce_") and before.size == after.size


def _place(equation: Any) -> str:
    frames = equation.source_info.traceback.frames if equation.source_info.traceback else ()
    ours = [frame for frame in frames if "jaxvae" in frame.file_name]
    return f"{ours[0].file_name.rsplit('/', 1)[1]}:{ours[0].line_num}" if ours else ""
