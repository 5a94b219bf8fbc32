"""Training and validation glyphs, with no outline on both sides.

Source: specification of the glyph VAE, section 2.7; why by outline: 9.12.
"""

import random
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxvae.data.glyphs.tokens import Glyph, outline_digest
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError

SplitBy = Literal["glyph", "font", "family"]
SPLITS = ("glyph", "font", "family")
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
    return _joined([(("glyph", glyph.font, glyph.name), ("outline", outline_digest(glyph))) for glyph in glyphs])


def font_groups(glyphs: Sequence[Glyph], by: Literal["font", "family"]) -> Int[np.ndarray, " n"]:
    """A number per glyph, equal for glyphs of one font file, or of one family.

    The faces of a collection share outlines. So they are one font, and families that share a collection are one.
    """
    if by == "font":
        return _joined([(("file", glyph.file),) for glyph in glyphs])
    return _joined([(("file", glyph.file), ("family", glyph.family)) for glyph in glyphs])


def _joined(keys: Sequence[tuple[Hashable, ...]]) -> Int[np.ndarray, " n"]:
    """A number per item, equal for items that share a key, or are connected by a chain of such pairs."""
    # A graph of items and of what they share, with an edge from each item to each of its keys.
    flat = [key for several in keys for key in several]
    number = {key: i for i, key in enumerate(dict.fromkeys(flat), start=len(keys))}
    edges = np.repeat(np.arange(len(keys)), [len(several) for several in keys]), [number[key] for key in flat]
    size = len(keys) + len(number)
    graph = coo_array((np.ones(len(flat), bool), edges), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(keys)]


def split_glyphs(glyphs: Sequence[Glyph], by: SplitBy, val_fraction: float, seed: int, skipped: Skipped) -> Split:
    """Indices of the glyphs to train and to validate on, sorted, with no outline on both sides.

    by = 'glyph': `split_by_group`. Outlines are new in validation, their fonts are not.

    by = 'font' or 'family': `val_fraction` of the fonts or families validate (`font_groups`). An outline that
    training has as well would join nearly all of them into one; so its glyph is left out of validation, and added to
    `skipped`.

    Raises:
      UserError: if one side would be empty.
    """
    if by == "glyph":
        return split_by_group(glyphs, val_fraction, seed, skipped.summary())
    groups = font_groups(glyphs, by)
    count = int(groups.max()) + 1
    if count < 2:
        raise UserError(
            f"config.data.split = {by!r}, but all {len(glyphs)} glyphs are of one {by} ({glyphs[0].file}): name more "
            f"fonts in config.data.path, or set config.data.split=glyph"
        )
    train, held_out = (np.flatnonzero(np.isin(groups, side)) for side in split_indices(count, val_fraction, seed))
    known = {outline_digest(glyphs[i]) for i in train}
    is_known = np.array([outline_digest(glyphs[i]) in known for i in held_out])
    for i in held_out[is_known]:
        skipped.add(f"glyph of a {by} to validate on whose outline is in training too", glyphs[i].label)
    if is_known.all():
        raise UserError(
            f"config.data.split = {by!r} leaves nothing to validate on: training has every outline of the fonts held "
            "out: set another config.data.split_seed, name more fonts in config.data.path, or set "
            "config.data.split=glyph"
        )
    return train, held_out[~is_known]


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
