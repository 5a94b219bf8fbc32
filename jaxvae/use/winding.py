"""How often an outline winds around points: what the even-odd and the non-zero rule see."""

import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.pens.recordingPen import RecordingPen
from jaxtyping import Float, Int

# Chords per quadratic.
CHORDS = 16


class _ChordPen(BasePen):
    """Collects the chords of closed contours as pairs of points."""

    def __init__(self):
        super().__init__()
        self.chords: list[tuple[tuple[float, float], tuple[float, float]]] = []

    def _moveTo(self, pt):
        self._start = pt

    def _lineTo(self, pt):
        self.chords.append((self._getCurrentPoint(), pt))

    def _qCurveToOne(self, pt1, pt2):
        t = np.linspace(0, 1, CHORDS + 1)[:, None]
        start, control, end = (np.array(p, float) for p in (self._getCurrentPoint(), pt1, pt2))
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        points[0], points[-1] = start, end
        self.chords += zip(map(tuple, points[:-1]), map(tuple, points[1:]), strict=True)

    def _closePath(self):
        self.chords.append((self._getCurrentPoint(), self._start))


def winding_numbers(
    outline: RecordingPen, x: Float[np.ndarray, " columns"], y: Float[np.ndarray, " rows"]
) -> Int[np.ndarray, "rows columns"]:
    """The winding numbers of an outline of lines and quadratics around the points (x, y); x ascends."""
    pen = _ChordPen()
    outline.replay(pen)
    numbers = np.zeros((len(y), len(x)), int)
    if not pen.chords:
        return numbers
    start, end = np.array(pen.chords, float).swapaxes(0, 1)
    for row, level in enumerate(y):
        # Half-open in y: a vertex on the line counts once.
        up, down = (start[:, 1] <= level) & (end[:, 1] > level), (end[:, 1] <= level) & (start[:, 1] > level)
        crossing = up | down
        a, b = start[crossing], end[crossing]
        at = a[:, 0] + (level - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
        # Each crossing turns all points to its right.
        steps = np.bincount(np.searchsorted(x, at), np.where(up[crossing], 1, -1), minlength=len(x) + 1)
        numbers[row] = np.rint(np.cumsum(steps)[:-1])
    return numbers
