"""Signed distances of glyphs from a large picture, slow and nearly exact, and how far images are from them."""

import edt
import numpy as np

from jaxvae.data.glyphs import inside_mask

# How much larger the reference is drawn; odd, so that the centre of a pixel is one in the large picture too.
SCALE = 15
# Farther from the outline than half a diagonal, a pixel lies wholly on one side, px.
SURE = 0.75


def reference(commands: np.ndarray, coords: np.ndarray, token_mask: np.ndarray, size: int) -> np.ndarray:
    """Signed distances in px to an outline drawn `SCALE` times as large, [size, size]; to 0.05 px."""
    large = np.zeros((size * SCALE,) * 2, bool)
    # The scale of the picture: its last row and column are nearly empty (`jaxvae.data.glyphs.sdf`).
    drawn = SCALE * (size - 1) + 1
    large[:drawn, :drawn] = inside_mask(commands, coords, token_mask, drawn)
    if not large.any():
        return np.full((size, size), -np.inf)
    # The edge runs half a (large) pixel before the nearest centre of the other kind.
    away = (edt.edt(large.astype(np.uint8) + np.uint8(1)) - 0.5) / SCALE
    centres = slice(SCALE // 2, None, SCALE)
    return np.where(large, away, -away)[centres, centres]


def errors(images: np.ndarray, references: np.ndarray, clip_px: float) -> dict[str, float]:
    """Mean and largest error in px over the pixels within `clip_px` of the outline; share of them on the wrong side.

    Sides count where the reference is more than `SURE` px away.
    """
    near = np.abs(references) < clip_px
    error = np.abs(clip_px * images - references)[near]
    sure = near & (np.abs(references) > SURE)
    wrong = (images > 0) != (references > 0)
    return {
        "mean_px": float(error.mean()),
        "p99_px": float(np.quantile(error, 0.99)),
        "max_px": float(error.max()),
        "wrong_side": float(wrong[sure].mean()),
    }
