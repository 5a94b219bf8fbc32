"""Rows of the original's data file that cannot be trained on, and what is wrong with each.

Source of what a row guarantees: specification of the glyph VAE, section 2.2. What the specification leaves open is
not asked for: which contour id END has, whether contours begin with NEW or HOLE, what masked slots hold.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxvae.outlines import END, L, M, Q, T, Z

# Rows of the table in which the model looks up contour ids.
MAX_CONTOURS = 4096

# Largest coordinate of an outline "about in [-1, 1]", normalised units. A control point can lie three times as far out
# as its curve: a quadratic from -a to -a with its control at 3 a turns round at a. So an outline within +-4/3, which is
# more than the decoder can write (`jaxvae.outlines.COORD_LIMIT`), may hold 4. What is larger was never normalised.
MAX_COORDINATE = 4.0


class _Fault(NamedTuple):
    """One kind of damage: `wrong` [N, ...] marks the entries of the array `key` that show it."""

    reason: str
    key: str
    values: np.ndarray
    wrong: np.ndarray


def broken_rows(
    commands: Integer[np.ndarray, "N L"],
    coords: Float[np.ndarray, "N L 4"],
    contour_ids: Integer[np.ndarray, "N L"],
    norm: Float[np.ndarray, "N 3"],
    valid: Bool[np.ndarray, "N L"],
) -> dict[int, tuple[str, str]]:
    """{row: (reason to skip it, first entry that is wrong and its value)}; rows that are sound are not in it.

    A row is sound if it has a valid token and, among its valid tokens, one END, on the last; finite coordinates of at
    most `MAX_COORDINATE`, also where a command has no use for them, as the model reads all four; contour ids below
    `MAX_CONTOURS` that are all -1 or, before END, count 0, 1, ... in stored order; a finite norm; and an M before
    anything is drawn.
    """
    broken: dict[int, tuple[str, str]] = {}
    for reason, key, values, wrong in _faults(commands, coords, contour_ids, norm, valid):
        for row in np.flatnonzero(wrong.reshape(len(wrong), -1).any(1)).tolist():
            place = (row, *np.argwhere(wrong[row])[0].tolist())
            where = f"{key}[{', '.join(map(str, place))}] = {values[place]}"
            # The first reason counts.
            broken.setdefault(row, (reason, where))
    return broken


def _faults(commands, coords, ids, norm, valid) -> Iterator[_Fault]:
    yield _Fault("row without a valid token", "seq_mask", valid, ~valid & ~valid.any(1, keepdims=True))
    is_last = valid & (np.cumsum(valid, axis=1) == valid.sum(1, keepdims=True))
    yield _Fault(
        "row without END on the last valid token alone", "seq_cmd", commands, valid & ((commands == END) != is_last)
    )
    begun = np.cumsum(valid & (commands == M), axis=1) > 0
    early = valid & np.isin(commands, (L, Q, T, Z)) & ~begun
    yield _Fault("row drawing before its first M", "seq_cmd", commands, early)
    used = valid[..., None]
    yield _Fault("row with a coordinate that is not finite", "seq_arg", coords, used & ~np.isfinite(coords))
    far = used & (np.abs(coords) > MAX_COORDINATE)
    yield _Fault(f"row with a coordinate beyond {MAX_COORDINATE:g}", "seq_arg", coords, far)
    outside = valid & ((ids < -1) | (ids >= MAX_CONTOURS))
    yield _Fault(f"row with a contour id outside -1..{MAX_CONTOURS - 1}", "contour_ids", ids, outside)
    yield _Fault("row whose contour ids do not count 0, 1, ...", "contour_ids", ids, _miscounted(commands, ids, valid))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found
        yield _Fault("row with a norm that is not finite", "norm", norm, ~np.isfinite(norm.astype(np.float32)))


def _miscounted(commands, ids, valid) -> Bool[np.ndarray, "N L"]:
    """Tokens before END whose contour id is neither the one before nor the next; none in rows without any id."""
    wrong = np.zeros(valid.shape, bool)
    for row in np.flatnonzero((valid & (ids != -1)).any(1)):
        tokens = np.flatnonzero(valid[row] & (commands[row] != END))
        counted = ids[row, tokens].astype(np.int64)
        wrong[row, tokens[:1]] = counted[:1] != 0
        wrong[row, tokens[1:]] = ~np.isin(np.diff(counted), (0, 1))
    return wrong
