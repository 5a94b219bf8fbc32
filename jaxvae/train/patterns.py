"""Parameters by name: 'decoder/block_0/kernel', and patterns that choose among them.

A pattern is a regular expression that is searched in the name, so 'decoder/' means all of the decoder, and '^head/'
only what begins so.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvae.errors import UserError


def leaf_name(path) -> str:
    """'decoder/block_0/kernel' from a path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_name(tree: Any) -> dict[str, Any]:
    """{name: leaf} of any tree."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def compile_patterns(key: str, text: str) -> list[re.Pattern]:
    """The patterns of a key of the configuration, commas between them; none for ''.

    Raises:
      UserError: if one is no regular expression.
    """
    patterns = []
    for pattern in filter(None, (part.strip() for part in text.split(","))):
        try:
            patterns.append(re.compile(pattern))
        except re.error as error:
            raise UserError(f"config.{key}: {pattern!r} is not a regular expression: {error}") from None
    return patterns


def matching(key: str, pattern: re.Pattern, names: Iterable[str], frozen: Iterable[str] = ()) -> set[str]:
    """The names in which `pattern` is found.

    Args:
      frozen: names that would have been there; the message says so.

    Raises:
      UserError: if there are none; the message shows some that exist.
    """
    names = list(names)
    found = {name for name in names if pattern.search(name)}
    if not found:
        if any(pattern.search(name) for name in frozen):
            raise UserError(f"config.{key}: all that {pattern.pattern!r} matches is frozen by config.optim.freeze")
        raise UserError(
            f"config.{key}: {pattern.pattern!r} matches no parameter: there are {', '.join(names[:5])}"
            + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        )
    return found


def split_frozen(params: Mapping, freeze: str) -> tuple[dict, dict]:
    """(trained, frozen) parts of nested parameters, by `optim.freeze`; `join` puts them together again.

    Raises:
      UserError: if a pattern matches nothing, or together they leave nothing to train.
    """
    flat = flatten_dict(params, sep="/")
    names = set()
    for pattern in compile_patterns("optim.freeze", freeze):
        names |= matching("optim.freeze", pattern, flat)
    if names and names == flat.keys():
        raise UserError(f"config.optim.freeze = {freeze!r}: leaves no parameter to train")
    parts = ({n: x for n, x in flat.items() if (n in names) == frozen} for frozen in (False, True))
    trained, frozen = (unflatten_dict(part, sep="/") for part in parts)
    return trained, frozen


def join(trained: Mapping, frozen: Mapping) -> dict:
    """One tree from the two of `split_frozen`."""
    if not frozen:
        return trained
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def label(params: Any, groups: Mapping, default: str, frozen: Iterable[str] = ()) -> Any:
    """A tree like `params` of names of groups: those of `optim.groups`, or `default` where no row matches.

    Args:
      frozen: names of parameters that are not among `params`.

    Raises:
      UserError: if a row matches nothing, or a parameter that another row has too.
    """
    names, group_of = list(by_name(params)), {}
    for group, row in groups.items():
        key = f"optim.groups.{group}.match"
        for pattern in compile_patterns(key, row.match):
            for name in matching(key, pattern, names, frozen):
                if group_of.setdefault(name, group) != group:
                    raise UserError(f"config.{key} = {row.match!r} takes {name}, which {group_of[name]} has already")
        if group not in group_of.values():
            raise UserError(f"config.{key} = {row.match!r}: give a pattern of parameters, such as {names[0]}")
    return jax.tree_util.tree_map_with_path(lambda path, _: group_of.get(leaf_name(path), default), params)
