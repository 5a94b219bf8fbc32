"""Directions and rates of parameters, in groups or not."""

import re

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from jaxvae.config import group_row
from jaxvae.errors import UserError
from jaxvae.train.optim import kernels, make_optimizer
from jaxvae.train.patterns import join, split_frozen

TASK = "glyph_vae"


def first_direction(config, params, grads):
    transformation = make_optimizer(config, params, 100).transformation
    return transformation.update(grads, transformation.init(params), params, clock=0)[0]


def test_weight_decay_spares_biases_norms_and_tables():
    leaves = ("kernel", "bias", "scale", "embedding")
    assert kernels({"layer": dict.fromkeys(leaves, jnp.ones(2))})["layer"] == {
        "kernel": True,
        "bias": False,
        "scale": False,
        "embedding": False,
    }


def direction(name, weight_decay, grad=2.0, param=10.0, decay_on="kernels"):
    config = tiny_config(
        TASK,
        optim__name=name,
        optim__weight_decay=weight_decay,
        optim__clip__norm=0.0,
        optim__decay_on=decay_on,
    )
    params = {"kernel": jnp.array([param]), "bias": jnp.array([param])}
    moved = first_direction(config, params, jax.tree.map(lambda p: p * 0 + grad, params))
    return float(moved["kernel"][0]), float(moved["bias"][0])


def test_adamw_decays_beside_the_gradient_and_adam_within_it():
    assert direction("adamw", 0.1) == pytest.approx((1 + 0.1 * 10, 1.0), rel=1e-5)
    # Within: the sign of gradient + decay is all that Adam's first step keeps.
    assert direction("adam", 0.1) == pytest.approx((1.0, 1.0), rel=1e-5)
    assert direction("adam", 0.1, grad=-0.5)[0] == pytest.approx(1.0, rel=1e-5)
    assert direction("sgd", 0.1) == pytest.approx((2 + 0.1 * 10, 2.0), rel=1e-5)


def test_weight_decay_on_all_takes_the_biases_too():
    assert direction("sgd", 0.1, decay_on="all") == pytest.approx((3.0, 3.0), rel=1e-5)


def test_clipping_is_part_of_the_chain():
    config = tiny_config(TASK, optim__name="sgd", optim__clip__norm=1.0)
    moved = first_direction(config, {"kernel": jnp.zeros(4)}, {"kernel": jnp.full(4, 10.0)})
    assert float(jnp.linalg.norm(moved["kernel"])) == pytest.approx(1.0, rel=1e-5)


# Groups: the parameters are a, b and c, each with gradients of its own.

PARAMS = {"a": {"kernel": jnp.zeros(2)}, "b": {"kernel": jnp.zeros(2)}, "c": {"kernel": jnp.ones(2)}}
GRADS = {"a": {"kernel": jnp.array([3.0, 0])}, "b": {"kernel": jnp.array([0, 4.0])}, "c": {"kernel": jnp.full(2, 9.0)}}


def grouped(groups, **changes):
    changes = {"optim__name": "sgd", "optim__b1": 0.0, "optim__clip__norm": 0.0, "optim__lr": 1.0} | changes
    changes |= {"optim__schedule__name": "constant", "optim__schedule__warmup_steps": 0}
    config = tiny_config(TASK, **changes)
    with config.unlocked():
        config.optim.groups = groups
    return config


def norms(tree):
    return {name: float(jnp.linalg.norm(leaf["kernel"])) for name, leaf in tree.items()}


def test_groups_have_rates_of_their_own_and_the_rest_the_common_one():
    config = grouped({"slow": group_row("^a/", lr_factor=0.1), "fast": group_row("b", lr_factor=3.0)})
    optimizer = make_optimizer(config, PARAMS, 100)
    rates = optimizer.rates(0, dict.fromkeys(("slow", "fast", "default"), 1.0) | {"fast": 0.5})
    assert {name: float(rate) for name, rate in rates.items()} == pytest.approx(
        {"slow": 0.1, "fast": 1.5, "default": 1.0}
    )
    assert jax.tree.leaves(optimizer.labels) == ["slow", "fast", "default"]


def test_a_group_with_a_limit_is_clipped_alone_and_the_others_together():
    config = grouped({"own": group_row("c", clip=1.0), "other": group_row("a")}, optim__clip__norm=2.5)
    # c: 9 sqrt(2) -> 1; a and b have the common norm 5 -> 2.5.
    assert norms(first_direction(config, PARAMS, GRADS)) == pytest.approx({"a": 1.5, "b": 2.0, "c": 1.0}, rel=1e-5)


def test_a_group_decays_by_its_own_factor():
    config = grouped({"c": group_row("c", decay_factor=0.5)}, optim__weight_decay=0.2)
    moved = first_direction(config, PARAMS | {"a": {"kernel": jnp.ones(2)}}, GRADS)
    assert moved["c"]["kernel"] == pytest.approx([9.1, 9.1]) and moved["a"]["kernel"] == pytest.approx([3.2, 0.2])


def test_before_its_start_a_group_takes_no_part_in_anything():
    config = grouped({"late": group_row("c", start_step=3)}, optim__name="adam", optim__b1=0.9, optim__clip__norm=5.0)
    optimizer = make_optimizer(config, PARAMS, 100)
    step, state = optimizer.transformation, optimizer.transformation.init(PARAMS)
    fresh = state
    for clock in range(2):
        assert optimizer.rates(clock, {"late": 1.0, "default": 1.0})["late"] == 0
        moved, state = step.update(GRADS, state, PARAMS, clock=clock)
    assert optimizer.rates(2, {"late": 1.0, "default": 1.0})["late"] == 1

    def of_c(state):
        return [
            leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if "'c'" in jax.tree_util.keystr(path)
        ]

    assert of_c(state) and all((a == b).all() for a, b in zip(of_c(state), of_c(fresh), strict=True))
    # Adam's count is the group's own: at its first update the direction is the gradient's sign.
    moved, _ = step.update(GRADS, state, PARAMS, clock=2)
    assert moved["c"]["kernel"] == pytest.approx([1.0, 1.0], rel=1e-4)


def test_a_late_group_does_not_use_up_the_common_limit():
    config = grouped({"late": group_row("c", start_step=3)}, optim__clip__norm=2.5)
    moved = first_direction(config, PARAMS, GRADS)
    assert norms(moved)["a"] == pytest.approx(1.5, rel=1e-5)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"x": group_row("decoder")}, "optim.groups.x.match: 'decoder' matches no parameter: there are a/kernel"),
        ({"x": group_row("a"), "y": group_row("kernel")}, "takes a/kernel, which x has already"),
        ({"x": group_row("(")}, "'(' is not a regular expression"),
    ],
)
def test_patterns_that_cannot_be_meant(groups, words):
    with pytest.raises(UserError, match=re.escape(words)):
        make_optimizer(grouped(groups), PARAMS, 100)


def test_a_group_of_frozen_parameters_is_named_as_such():
    with pytest.raises(
        UserError, match=r"groups\.x\.match: all that '\^d/' matches is frozen by config\.optim\.freeze"
    ):
        make_optimizer(grouped({"x": group_row("^d/")}), PARAMS, 100, frozen=["d/kernel"])


def test_frozen_parameters_are_taken_apart_and_put_together():
    trained, frozen = split_frozen(PARAMS, "^a/, c")
    assert (set(trained), set(frozen)) == ({"b"}, {"a", "c"})
    assert jax.tree.structure(join(trained, frozen)) == jax.tree.structure(PARAMS)
    assert split_frozen(PARAMS, "") == (PARAMS, {})
    with pytest.raises(UserError, match=r"optim\.freeze: 'nothing' matches no parameter"):
        split_frozen(PARAMS, "nothing")
