"""Weights from another run, by name: the second stage of a training, or a new head on an old body."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from jaxvae.errors import UserError
from jaxvae.train.checkpoint import Damaged, describe, find_checkpoint
from jaxvae.train.distributed import check_alike, together
from jaxvae.train.patterns import by_name, compile_patterns, leaf_name
from jaxvae.train.state import State

# Measured on the data of a run, and so never taken from another.
STATISTICS = "statistics"


def init_from(state: State, config) -> tuple[State, str]:
    """`state` with the weights that `config.init_from` names, and a line that says what was taken.

    Parameters and the model's own collections are taken by name, after `init_from.map`. Averages begin anew as copies,
    optimizer and step stay fresh.

    Raises:
      UserError: if there is no checkpoint, or a name without counterpart that `init_from.allow` does not allow, or
        another shape under the same name.
    """
    c = config.init_from
    with together():
        checkpoints, step = find_checkpoint("config.init_from.path", c.path)
    check_alike({"checkpoints in config.init_from.path": str(step)})
    try:
        found = checkpoints.arrays(step)
        theirs = _rename(weight_names(found, c.weights), c.map)
        ours = _ours(state)
        where = f"{checkpoints.folder}/{step}"
        _check(where, ours, {name: found[source] for name, source in theirs.items()}, c.allow)
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            raise UserError(f"config.init_from.path = {c.path!r}: {where} has no name in common: see init_from.map")
        placed = {
            theirs[n]: jax.ShapeDtypeStruct(ours[n].shape, ours[n].dtype, sharding=ours[n].sharding) for n in shared
        }
        arrays = by_name(checkpoints.read(step, unflatten_dict(placed, sep="/")))
    except Damaged as error:
        raise UserError(f"config.init_from.path = {c.path!r}: checkpoint {step} is damaged ({error})") from None
    taken = {name: arrays[theirs[name]] for name in shared}
    fresh = f", {len(ours) - len(taken)} fresh" if len(taken) < len(ours) else ""
    unused = f", {len(theirs) - len(taken)} of its own unused" if len(taken) < len(theirs) else ""
    line = f"starts from {where} ({c.weights} weights): {len(taken)} arrays taken{fresh}{unused}"
    return put_weights(state, taken), line


def _ours(state: State) -> dict[str, Any]:
    """{name: array} of all that can be taken: parameters under their own names, collections under theirs."""
    collections = {n: c for n, c in state.collections.items() if n != STATISTICS}
    return {**by_name(state.params), **by_name(state.frozen), **by_name(collections)}


def weight_names(found: dict[str, Any], weights: str) -> dict[str, str]:
    """{name of a weight: its name in the checkpoint}; those that were frozen have no average of their own.

    Args:
      found: the arrays of a checkpoint by name.
      weights: 'raw' or the name of an average.

    Raises:
      UserError: if that run kept no such average.
    """
    trained = "params/" if weights == "raw" else f"ema/{weights}/"
    names = {}
    for source in found:
        for prefix in (trained, "frozen/", "collections/"):
            if source.startswith(prefix) and not source.startswith(f"collections/{STATISTICS}/"):
                names[source.removeprefix(prefix)] = source
    if not any(source.startswith(trained) for source in names.values()):
        kept = sorted({source.split("/")[1] for source in found if source.startswith("ema/")})
        raise UserError(f"config.init_from.weights = {weights!r}: that run kept {', '.join(['raw', *kept])}")
    return names


def _rename(names: dict[str, str], text: str) -> dict[str, str]:
    """Applies 'pattern=>replacement, ...', each a regular expression, to the names in order."""
    for rule in filter(None, (part.strip() for part in text.split(","))):
        pattern, arrow, replacement = rule.partition("=>")
        try:
            if not arrow:
                raise re.error("there is no '=>' in it")
            renamed = {re.sub(pattern, replacement, name): source for name, source in names.items()}
        except (re.error, IndexError) as error:  # the latter for \g<a name that is not there>
            raise UserError(
                f"config.init_from.map: {rule!r} is no rule ({error}): write pattern=>replacement, ..."
            ) from None
        if len(renamed) < len(names):
            raise UserError(f"config.init_from.map: {rule!r} gives two arrays one name")
        if renamed == names:
            raise UserError(
                f"config.init_from.map: {rule!r} changes no name: there are {', '.join(list(names)[:5])} ..."
            )
        names = renamed
    return names


def _check(where: str, ours: dict[str, Any], theirs: dict[str, Any], allow: str) -> None:
    allowed = compile_patterns("init_from.allow", allow)
    shapes = [n for n in ours.keys() & theirs.keys() if describe(ours[n]) != describe(theirs[n])]
    if shapes:
        n = min(shapes)
        raise UserError(
            f"config.init_from.path: {n} is {describe(theirs[n])} in {where} and {describe(ours[n])} here"
            + (f", and {len(shapes) - 1} more differ" if len(shapes) > 1 else "")
        )
    for pattern in allowed:
        if not any(pattern.search(name) for name in ours.keys() ^ theirs.keys()):
            raise UserError(
                f"config.init_from.allow: {pattern.pattern!r} matches no array without a counterpart: leave it out"
            )
    for names, lacking in ((ours.keys() - theirs.keys(), f"in {where}"), (theirs.keys() - ours.keys(), "here")):
        left = sorted(n for n in names if not any(pattern.search(n) for pattern in allowed))
        if left:
            raise UserError(
                f"config.init_from.allow = {allow!r}: no counterpart {lacking} for {', '.join(left[:5])}"
                + (f" and {len(left) - 5} more" if len(left) > 5 else "")
                + ": rename by config.init_from.map, or allow them by a pattern"
            )


def put_weights(state: State, taken: dict[str, Any]) -> State:
    """`state` with the parameters and collections that `taken` has by name; averages begin anew as copies."""

    def put(tree):
        return jax.tree_util.tree_map_with_path(lambda path, x: taken.get(leaf_name(path), x), tree)

    params = put(state.params)
    # Copies, as in a fresh state.
    ema = {name: jax.tree.map(jnp.copy, params) for name in state.ema}
    return state.replace(params=params, frozen=put(state.frozen), collections=put(state.collections), ema=ema)
