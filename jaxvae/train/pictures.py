"""Pictures as PNG files."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def to_uint8(picture) -> np.ndarray:
    """A picture [height, width] or [height, width, 3] in [0, 1] as RGB bytes; values outside are clipped."""
    picture = np.nan_to_num(np.asarray(picture, np.float32), nan=0.0)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    return (np.clip(picture, 0.0, 1.0) * 255).round().astype(np.uint8)


def write_picture(path: Path, picture) -> np.ndarray:
    """Writes a PNG whole or not at all and returns its RGB bytes."""
    image = to_uint8(picture)
    beside = path.with_suffix(".tmp")
    Image.fromarray(image).save(beside, format="PNG")
    os.replace(beside, path)
    return image
