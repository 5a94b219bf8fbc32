"""Training and validation glyphs, with no outline on both sides.

Source: specification of the glyph VAE, section 2.7; why by outline: 9.12.
"""

import random
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxvae.data.glyphs.tokens import Glyph, outline_digest
from jaxvae.errors import UserError

Split = tuple[Int[np.ndarray, " train"], Int[np.ndarray, " val"]]


def split_indices(n: int, val_fraction: float, seed: int) -> Split:
    """0..n-1 shuffled by Python's `random`: the last max(1, int(n val_fraction)) validate, the others train.

    Both come sorted. A fraction outside (0, 1) gives everything to both sides.
    Source: specification of the glyph VAE, section 2.7.
    """
    indices = list(range(n))
    if not 0 < val_fraction < 1:
        return np.array(indices), np.array(indices)
    random.Random(seed).shuffle(indices)
    num_train = n - max(1, int(n * val_fraction))
    return np.array(sorted(indices[:num_train]), int), np.array(sorted(indices[num_train:]), int)


def glyph_groups(glyphs: Sequence[Glyph]) -> Int[np.ndarray, " n"]:
    """A number per glyph, equal for glyphs that must stay together.

    Glyphs of the same font and name belong together, and glyphs of the same outline; so do those that are
    connected by a chain of such pairs.
    """
    # A graph of glyphs and of what they share, with an edge from each glyph to each of its two keys.
    keys = [key for glyph in glyphs for key in ((glyph.font, glyph.name), outline_digest(glyph))]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys), start=len(glyphs))}
    edges = np.repeat(np.arange(len(glyphs)), 2), [number[key] for key in keys]
    size = len(glyphs) + len(number)
    graph = coo_array((np.ones(len(keys), bool), edges), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(glyphs)]


def split_by_group(glyphs: Sequence[Glyph], val_fraction: float, seed: int, left_out: Iterable[str] = ()) -> Split:
    """`split_indices` of the groups of `glyph_groups`; returns indices of glyphs, sorted.

    Args:
      left_out: what was skipped when the glyphs were read, a line each: why there may be so few of them.

    Raises:
      UserError: if all glyphs are one group, so that nothing would be left to train on.
    """
    groups = glyph_groups(glyphs)
    names = np.unique(groups)
    if len(names) < 2 and 0 < val_fraction < 1:
        skipped = "".join(f"; left out: {line}" for line in left_out)
        raise UserError(
            f"{len(glyphs)} glyph{'s' if len(glyphs) > 1 else ''} with one outline in all cannot be split at "
            f"config.data.val_fraction = {val_fraction}: training and validation need an outline each, so name more "
            "files in config.data.path, more characters in config.data.charset, or raise config.model.max_len" + skipped
        )
    train, val = (
        np.flatnonzero(np.isin(groups, names[side])) for side in split_indices(len(names), val_fraction, seed)
    )
    return train, val
