"""benchmarks/measuring.py: counts of programs whose products are known, and times by a clock that is not the wall's."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import measuring
from measuring import Times, in_turn, matmul_peak, memory, product_flops


def flops(function, *shapes):
    return product_flops(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def convolve(x, kernel, stride=1, padding="SAME", groups=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout, feature_group_count=groups
    )


# Operations of one product [2, 3] x [3, 3].
ONE = 2 * 2 * 3 * 3


def test_a_product_counts_two_operations_per_multiply_add():
    assert flops(jnp.matmul, (4, 5), (5, 7)) == 2 * 4 * 5 * 7
    assert flops(jax.jit(jnp.matmul), (4, 5), (5, 7)) == 2 * 4 * 5 * 7
    assert flops(partial(jnp.einsum, "bhqd,bhkd->bhqk"), (2, 3, 4, 8), (2, 3, 5, 8)) == 2 * (2 * 3 * 4 * 5) * 8
    assert flops(partial(jnp.einsum, "bqhd,bqhd->"), (2, 4, 3, 8), (2, 4, 3, 8)) == 2 * 2 * 4 * 3 * 8


def test_what_is_no_product_does_not_count():
    assert flops(lambda x: jax.nn.softmax(jnp.tanh(x) * x).sum(), (8, 8)) == 0


def test_the_gradient_of_a_product_costs_two_products():
    gradient = jax.grad(lambda x, w: jnp.square(x @ w).sum(), (0, 1))
    assert flops(gradient, (4, 5), (5, 7)) == 3 * 2 * 4 * 5 * 7
    # What is computed again in the backward pass counts again.
    twice = jax.grad(jax.checkpoint(lambda x, w: jnp.square(x @ w).sum()), (0, 1))
    assert flops(twice, (4, 5), (5, 7)) == 4 * 2 * 4 * 5 * 7


@pytest.mark.parametrize(
    ("options", "outputs", "inputs_per_output"),
    [
        ({}, 2 * 8 * 8 * 6, 3 * 3 * 4),
        ({"padding": "VALID"}, 2 * 6 * 6 * 6, 3 * 3 * 4),
        ({"stride": 2}, 2 * 4 * 4 * 6, 3 * 3 * 4),
        ({"groups": 2}, 2 * 8 * 8 * 6, 3 * 3 * 2),
    ],
)
def test_a_convolution_counts_its_window_at_every_place(options, outputs, inputs_per_output):
    groups = options.get("groups", 1)
    function, shapes = partial(convolve, **options), ((2, 8, 8, 4), (3, 3, 4 // groups, 6))
    assert flops(function, *shapes) == 2 * outputs * inputs_per_output
    kernel_gradient = jax.grad(lambda x, kernel: jnp.square(function(x, kernel)).sum(), 1)
    assert flops(kernel_gradient, *shapes) == 2 * 2 * outputs * inputs_per_output


def test_zeros_between_the_inputs_of_a_convolution_do_not_count():
    """The gradient of a convolution with stride is one of spread inputs; patches are the case without overlap."""

    def both(x, kernel):
        return jnp.square(convolve(x, kernel, stride=4, padding="VALID")).sum()

    forward = 2 * (2 * 2 * 2 * 6) * (4 * 4 * 3)
    assert flops(both, (2, 8, 8, 3), (4, 4, 3, 6)) == forward
    assert flops(jax.grad(both, (0, 1)), (2, 8, 8, 3), (4, 4, 3, 6)) == 3 * forward


def test_the_body_of_a_scan_counts_as_often_as_it_runs():
    def scan(x, w):
        return jax.lax.scan(lambda c, _: (c @ w, None), x, length=5)[0]

    def nested(x, w):
        return jax.lax.scan(lambda c, _: (scan(c, w) @ w, None), x, length=7)[0]

    assert flops(scan, (2, 3), (3, 3)) == 5 * ONE
    assert flops(nested, (2, 3), (3, 3)) == 7 * 6 * ONE
    assert flops(lambda x, w: jax.lax.fori_loop(0, 4, lambda i, c: c @ w, x), (2, 3), (3, 3)) == 4 * ONE
    assert flops(lambda x, w: jax.lax.map(lambda row: row @ w, x), (2, 3), (3, 3)) == ONE


def test_a_while_of_unknown_length_counts_once():
    def loop(x, w):
        return jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ w, x)

    assert flops(loop, (2, 3), (3, 3)) == ONE


def test_the_most_expensive_branch_of_a_conditional_counts():
    branches = (lambda x, w: x, lambda x, w: (x @ w) @ w, lambda x, w: x @ w)
    assert flops(lambda x, w: jax.lax.switch(x[0, 0].astype(int), branches, x, w), (2, 3), (3, 3)) == 2 * ONE
    chosen = partial(jax.lax.platform_dependent, cpu=branches[2], default=branches[0])
    assert flops(chosen, (2, 3), (3, 3)) == ONE


def test_products_inside_of_custom_derivatives_count_once():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    assert flops(product, (2, 3), (3, 3)) == ONE
    assert flops(jax.grad(lambda x, w: product(x, w).sum(), (0, 1)), (2, 3), (3, 3)) == 3 * ONE


class Clock:
    """Runs that take as long as they are told to, in seconds of their own."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: self.now)

    def runs(self, name, *seconds):
        left = iter(seconds)

        def run():
            self.log.append(name)
            self.now += next(left)

        return run


def test_every_function_runs_twice_per_round_and_the_second_run_is_timed(monkeypatch):
    clock = Clock(monkeypatch)
    times = in_turn({"a": clock.runs("a", 90, 3, 91, 1, 92, 2), "b": clock.runs("b", 0, 8, 0, 8, 0, 5)}, rounds=3)
    assert clock.log == ["a", "a", "b", "b"] * 3
    assert times == {"a": Times(min=1, median=2), "b": Times(min=5, median=8)}


def test_a_machine_is_busy_when_the_median_is_far_above_the_minimum():
    assert not Times(min=1.0, median=1.2).busy
    assert Times(min=1.0, median=1.4).busy


def test_the_peak_is_the_fastest_of_the_products(monkeypatch):
    small, large = measuring.PEAK_SIZES["cpu"]
    seconds = {small: 0.5, large: 100.0}
    monkeypatch.setattr(measuring, "matmul_time", lambda size, dtype: seconds[size])
    assert matmul_peak("float32") == {"flops_per_s": 2 * small**3 / 0.5, "size": small}
    seconds[large] = 0.5
    assert matmul_peak("float32") == {"flops_per_s": 2 * large**3 / 0.5, "size": large}


def test_a_donated_argument_is_counted_once():
    size = 4 * 1000

    def bytes_of(**options):
        return memory(
            jax.jit(lambda x, y: (x + 1, y.sum()), **options).lower(jnp.zeros(1000), jnp.zeros(1000)).compile()
        )

    kept, donated = bytes_of(), bytes_of(donate_argnums=0)
    assert kept["arguments"] == donated["arguments"] == 2 * size
    assert (kept["aliased"], donated["aliased"]) == (0, size)
    assert kept["total"] - donated["total"] == size
    assert kept["total"] == kept["arguments"] + kept["outputs"] + kept["temporaries"]
