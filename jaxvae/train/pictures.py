"""Pictures as PNG files."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def to_uint8(picture) -> np.ndarray:
    """A picture [height, width] or [height, width, 3] in [0, 1] as RGB bytes; values outside are clipped."""
    picture = np.nan_to_num(np.asarray(picture, np.float32), nan=0.0)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    return (np.clip(picture, 0.0, 1.0) * 255).round().astype(np.uint8)


def add_caption(image: np.ndarray, text: str) -> np.ndarray:
    """The RGB picture with a line of text under it; made wider with white if the line needs it."""
    font = ImageFont.load_default(12)
    left, _, right, _ = font.getbbox(text)
    margin, height = 4, 20
    width = max(image.shape[1], right - left + 2 * margin)
    canvas = Image.new("RGB", (width, image.shape[0] + height), "white")
    canvas.paste(Image.fromarray(image), (0, 0))
    ImageDraw.Draw(canvas).text((margin, image.shape[0] + 2), text, font=font, fill="black")
    return np.asarray(canvas)


def write_picture(path: Path, picture, caption: str) -> np.ndarray:
    """Writes a PNG with its caption whole or not at all and returns its RGB bytes."""
    image = add_caption(to_uint8(picture), caption)
    beside = path.with_suffix(".tmp")
    Image.fromarray(image).save(beside, format="PNG")
    os.replace(beside, path)
    return image
