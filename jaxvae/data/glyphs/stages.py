"""Training on prefixes: the first contours of an outline, ended by END ("RSM" in the original).

Source: specification of the glyph VAE, section 2.4; what is corrected by default: 9.7.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxvae.outlines import END, PAD, TOPOLOGY_BITS

# Share of an outline's contours that is kept, and how often.
STAGE_RATIOS = (0.25, 0.5, 0.75, 1.0)
STAGE_PROBABILITIES = (0.15, 0.25, 0.25, 0.35)

NO_CONTOUR_IDS = "the outline has no contour ids: it cannot be cut into contours"

PrefixEnd = Literal["append", "overwrite"]


class Prefix(NamedTuple):
    """A prefix in slots of the same number as the outline that it was cut from."""

    commands: Int[np.ndarray, " L"]
    coords: Float[np.ndarray, "L 4"]
    token_mask: Bool[np.ndarray, " L"]
    contour_ids: Int[np.ndarray, " L"]
    topology: UInt8[np.ndarray, " L"] | None
    num_kept: int  # contours kept (K); -1 when cut by tokens
    num_contours: int  # contours of the outline (C); -1 when cut by tokens


def check_stages(ratios: Sequence[float], probabilities: Sequence[float]) -> None:
    """Raises `ValueError` unless ratios ascend to 1 and have probabilities above 0 that sum to 1."""
    if len(ratios) != len(probabilities):
        raise ValueError(f"{len(ratios)} stages but {len(probabilities)} probabilities")
    if min(probabilities) <= 0 or not math.isclose(sum(probabilities), 1.0, rel_tol=1e-6):
        raise ValueError(f"stage probabilities {tuple(probabilities)} must be above 0 and sum to 1")
    if list(ratios) != sorted(ratios) or ratios[0] <= 0 or ratios[-1] != 1.0:
        raise ValueError(f"stages {tuple(ratios)} must ascend from above 0 to 1")


def draw_stage(u: Float[np.ndarray, "*n"], probabilities: Sequence[float]) -> Int[np.ndarray, "*n"]:
    """Indices of stages for uniform numbers in [0, 1): the number of cumulative probabilities <= u.

    Source: specification of the glyph VAE, section 2.4.
    """
    below = np.searchsorted(np.cumsum(probabilities), u, side="right")
    # The last sum may fall short of 1 by rounding, and u above it.
    return np.minimum(below, len(probabilities) - 1)


def cut_prefix(
    commands: Int[np.ndarray, " L"],
    coords: Float[np.ndarray, "L 4"],
    token_mask: Bool[np.ndarray, " L"],
    contour_ids: Int[np.ndarray, " L"],
    topology: UInt8[np.ndarray, " L"] | None = None,
    *,
    ratio: float,
    end: PrefixEnd = "append",
    allow_token_fallback: bool = False,
) -> Prefix:
    """The first K = max(1, ceil(ratio C)) of the C contours of one outline, with an END.

    end = "append": the tokens of K contours, then END in the next slot with the id of the last kept contour
    and its topology bit, then padding. END's own contour id plays no role. With K = C the outline is
    unchanged.

    end = "overwrite", as the original: the tokens with an id below K are valid (END too where its id is -1),
    and the last of them becomes END, which destroys the last contour's Z; ids, topology and the tokens behind
    stay.

    Args:
      topology: returned as None when not given.
      allow_token_fallback: without contour ids keep max(1, ceil(ratio n)) of the n valid tokens instead.

    Raises:
      ValueError: if no token has a contour id (unless the fallback is allowed), or the outline has no token.
    """
    # Only the original counts END as a token of a contour.
    countable = token_mask if end == "overwrite" else token_mask & (commands != END)
    num_contours = _count_contours(contour_ids if end == "overwrite" else contour_ids[countable])
    if num_contours > 0:
        num_kept = max(1, math.ceil(ratio * num_contours))
        keep = countable & (contour_ids < num_kept)
        is_whole = num_kept == num_contours
    elif allow_token_fallback:
        num_kept = num_contours = -1
        rank = np.cumsum(countable)
        keep = countable & (rank <= max(1, math.ceil(ratio * rank[-1])))
        is_whole = keep.sum() == countable.sum()
    else:
        raise ValueError(NO_CONTOUR_IDS)
    if not keep.any():
        raise ValueError("the outline has no token in its first contours")

    last = int(np.flatnonzero(keep)[-1])
    if end == "overwrite":
        commands, coords = commands.copy(), coords.copy()
        commands[last], coords[last] = END, 0
        return Prefix(commands, coords, keep, contour_ids, topology, num_kept, num_contours)
    if is_whole:
        return Prefix(commands, coords, token_mask, contour_ids, topology, num_kept, num_contours)

    def cut(array, ending, padding):
        array = array.copy()
        array[last + 1], array[last + 2 :] = ending, padding
        return array

    return Prefix(
        cut(commands, END, PAD),
        cut(coords, 0, 0),
        cut(keep, True, False),
        cut(contour_ids, contour_ids[last], -1),
        None if topology is None else cut(topology, TOPOLOGY_BITS[END], 0),
        num_kept,
        num_contours,
    )


def prefix_lengths(
    commands: Int[np.ndarray, " L"],
    contour_ids: Int[np.ndarray, " L"],
    ratios: Sequence[float],
    end: PrefixEnd = "append",
) -> Int[np.ndarray, " stages"]:
    """Slots up to the last valid token of `cut_prefix` at every stage, for an outline without padding.

    Raises:
      ValueError: if no token has a contour id.
    """
    countable = np.ones(len(commands), bool) if end == "overwrite" else commands != END
    num_contours = _count_contours(contour_ids[countable])
    if not num_contours:
        raise ValueError(NO_CONTOUR_IDS)
    num_kept = np.maximum(1, np.ceil(np.asarray(ratios) * num_contours))
    kept = countable & (contour_ids < num_kept[:, None])
    lengths = np.where(kept, np.arange(1, len(commands) + 1), 0).max(1)
    if end == "overwrite":
        return lengths
    return np.where(num_kept == num_contours, len(commands), lengths + 1)


def _count_contours(contour_ids: np.ndarray) -> int:
    return int(contour_ids.max(initial=-1)) + 1
