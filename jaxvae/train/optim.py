"""The optimizer: an optax chain that gives directions, and the rates that give their lengths.

The update of a parameter is params - rate * direction. Rates stay outside of the chain, so that they depend on the
clock alone and there is one place that reads them. Parameters fall into groups: those of `optim.groups`, and
`default` for the rest.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxvae.train.clipping import clip_by_global_norm, clip_by_percentile
from jaxvae.train.patterns import by_name, label, split_frozen
from jaxvae.train.schedules import make_schedule
from jaxvae.train.state import init_variables

DEFAULT = "default"


class Optimizer(NamedTuple):
    """What a step needs to know.

    Attributes:
      transformation: gradients -> directions.
      labels: tree like the parameters, of names of groups.
      peak: {group: learning rate at the schedule's peak}.
      share: clock -> share of the peak.
      start: {group: first update that trains it}.
    """

    transformation: optax.GradientTransformation
    labels: Any
    peak: Mapping[str, float]
    share: Callable[[jax.Array], jax.Array]
    start: Mapping[str, int]

    def rates(self, clock, scale: Mapping[str, Any]) -> dict[str, jax.Array]:
        """{group: learning rate} when `clock` updates have been made; 0 before a group's start."""
        share = self.share(clock)
        rates = {group: share * (scale[group] * peak) for group, peak in self.peak.items()}
        return {g: jnp.where(clock + 1 < self.start[g], 0.0, r) if self.start[g] else r for g, r in rates.items()}


def make_optimizer(config, params, total_steps: int, frozen: Iterable[str] = ()) -> Optimizer:
    """The optimizer of `config.optim` for parameters (or their shapes) in a run of `total_steps`.

    Args:
      frozen: names of parameters that are left out.

    Raises:
      UserError: if the pattern of a group matches nothing, or two groups want one parameter.
    """
    c = config.optim
    rows = {name: row for name, row in c.groups.items() if row.match}
    labels = label(params, rows, DEFAULT, frozen)
    present = set(jax.tree.leaves(labels))
    start = {name: row.start_step for name, row in rows.items()} | {DEFAULT: 0}
    peak = {name: c.lr * row.lr_factor for name, row in rows.items()} | ({DEFAULT: c.lr} if DEFAULT in present else {})
    transformation = _grouped(c, rows, labels) if rows else optax.chain(_clip(c), _direction(c, c.weight_decay))
    # Support for `clock`, whether a part of the chain asks for it or not.
    transformation = optax.with_extra_args_support(transformation)
    return Optimizer(transformation, labels, peak, make_schedule(config, total_steps), start)


def _grouped(c, rows: Mapping, labels) -> optax.GradientTransformation:
    """Groups with a limit of their own are clipped alone, all others together."""

    def whose(names):
        return jax.tree.map(lambda group: group in names, labels)

    own = {name for name, row in rows.items() if row.clip}
    shared = {DEFAULT, *rows} - own
    chain = [_waiting(labels, {name: row.start_step for name, row in rows.items()})]
    chain += [optax.masked(clip_by_global_norm(rows[name].clip), whose({name})) for name in sorted(own)]
    chain.append(optax.masked(_clip(c), whose(shared)))
    directions = {DEFAULT: _direction(c, c.weight_decay)}
    for name, row in rows.items():
        directions[name] = _starting(_direction(c, c.weight_decay * row.decay_factor), row.start_step)
    return optax.chain(*chain, optax.partition(directions, labels))


def _clip(c) -> optax.GradientTransformation:
    if c.clip.name == "percentile":
        return clip_by_percentile(c.clip.percentile, c.clip.window, c.clip.norm or float("inf"))
    return clip_by_global_norm(c.clip.norm) if c.clip.norm else optax.identity()


def _direction(c, weight_decay: float) -> optax.GradientTransformation:
    """The direction of AdamW, Adam (with weight decay as an L2 penalty) or SGD with momentum."""
    decay = optax.add_decayed_weights(weight_decay, mask={"kernels": kernels, "all": None}[c.decay_on])
    adam = optax.scale_by_adam(c.b1, c.b2, c.eps)
    return {
        "adamw": optax.chain(adam, decay),
        "adam": optax.chain(decay, adam),
        "sgd": optax.chain(decay, optax.trace(c.b1)),
    }[c.name]


def kernels(params):
    """True for matrices and convolutions, by the name of their leaf; False for biases, norms' scales and tables."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _waiting(labels, start: Mapping[str, int]) -> optax.GradientTransformationExtraArgs:
    """Sets the gradients of groups that have not begun to 0, so that they take no part in a common norm."""

    def update(updates, state, params=None, *, clock):
        del params

        def begun(gradient, group):
            first = start.get(group, 0)
            return jnp.where(clock + 1 < first, 0, gradient) if first else gradient

        return jax.tree.map(begun, updates, labels), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _starting(inner: optax.GradientTransformation, first: int) -> optax.GradientTransformation:
    """`inner`, whose state does not change before update `first`."""
    if not first:
        return inner

    def update(updates, state, params=None, *, clock):
        updates, new = inner.update(updates, state, params)
        return updates, jax.tree.map(lambda n, o: jnp.where(clock + 1 < first, o, n), new, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def optimizer_for(task, config, batch, total_steps: int) -> Optimizer:
    """`make_optimizer` for the parameters that a task would have with these examples, less the frozen ones."""
    shapes = jax.eval_shape(lambda: init_variables(task, config, batch))
    trained, frozen = split_frozen(shapes["params"], config.optim.freeze)
    return make_optimizer(config, trained, total_steps, by_name(frozen))
