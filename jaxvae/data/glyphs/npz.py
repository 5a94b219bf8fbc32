"""The data file of the original system: arrays of padded outlines in one `.npz`.

Source: specification of the glyph VAE, section 2.2. Nothing in the file is trusted: no pickles, and the sizes
that an array declares are checked before memory is taken for it.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from jaxvae.data.glyphs.tokens import Glyph, topology_bits
from jaxvae.errors import UserError
from jaxvae.outlines import END, NUM_COMMANDS, PAD

# The file does not say how large an em is; the square [-1, 1] is taken for it.
UNKNOWN_EM = 2.0
# Rows of the table in which the model looks up contour ids.
MAX_CONTOURS = 4096


# RuntimeError: an encrypted member, or a compression that Python does not have.
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


class _Layout(NamedTuple):
    """What an array must be: kinds of NumPy's dtype.kind, their name, and axes after the first (N glyphs)."""

    kinds: str
    dtype: str
    axes: tuple[str | int, ...]
    required: bool


LAYOUTS = {
    "seq_cmd": _Layout("iu", "an integer", ("L",), True),
    "seq_arg": _Layout("f", "a float", ("L", 4), True),
    "seq_mask": _Layout("biu", "a bool or integer", ("L",), True),
    # Training draws the image of every prefix itself: this one is looked at but not read.
    "img_dt": _Layout("f", "a float", ("H", "W"), True),
    "seq_topo": _Layout("iu", "an integer", ("L",), False),
    "contour_ids": _Layout("iu", "an integer", ("L",), False),
    "norm": _Layout("f", "a float", (3,), False),
    "unicode": _Layout("iu", "an integer", (), False),
}


def read_npz(path: Path | str) -> list[Glyph]:
    """The glyphs of a file of the original, one per row, named 'row0', 'row1', ...

    Only valid tokens that are not PAD are kept; contour ids and END stay as they are. Where the file has no
    `contour_ids`, `norm` or `unicode` they are -1, (1, 0, 0) and -1; topology bits are derived from the
    commands. A row without a valid token gives a glyph of length 0.

    Raises:
      UserError: if the file or an array in it is not what it should be; the message names file, key and row.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    commands, coords = arrays["seq_cmd"], arrays["seq_arg"]
    keep = arrays["seq_mask"].astype(bool) & (commands != PAD)
    ids = arrays.get("contour_ids", np.full(commands.shape, -1))
    _check_values(path, "seq_cmd", keep & ((commands < 0) | (commands >= NUM_COMMANDS)), "is no command (0..8)")
    _check_values(path, "seq_arg", keep & ~np.isfinite(coords).all(-1), "is not finite")
    outside = keep & ((ids < -1) | (ids >= MAX_CONTOURS))
    _check_values(path, "contour_ids", outside, f"is not in -1..{MAX_CONTOURS - 1}")
    _check_contour_order(path, ids, keep & (commands != END))
    norm = arrays.get("norm", np.tile(np.float32([1, 0, 0]), (len(commands), 1)))
    codepoints = arrays.get("unicode", np.full(len(commands), -1))

    glyphs = []
    for row, valid in enumerate(keep):
        row_commands = commands[row][valid].astype(np.int32)
        topology = arrays["seq_topo"][row][valid] if "seq_topo" in arrays else topology_bits(row_commands)
        glyphs.append(
            Glyph(
                commands=row_commands,
                coords=coords[row][valid].astype(np.float32),
                contour_ids=ids[row][valid].astype(np.int32),
                topology=topology.astype(np.uint8),
                norm=norm[row].astype(np.float32),
                em=UNKNOWN_EM,
                codepoint=int(codepoints[row]),
                name=f"row{row}",
                font=path.stem,
            )
        )
    return glyphs


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that are there, except the image, all of the layout that they should have."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {key: f"{key}.npy" for key in LAYOUTS if f"{key}.npy" in archive.namelist()}
            missing = [key for key, layout in LAYOUTS.items() if layout.required and key not in members]
            if missing:
                needed = ", ".join(key for key, layout in LAYOUTS.items() if layout.required)
                raise UserError(f"{path} lacks {', '.join(missing)}: a glyph file holds {needed}")
            sizes: dict[str | int, int] = {}
            for key, member in members.items():
                _check_header(path, key, archive, member, sizes)
            return {key: _read_array(archive, m) for key, m in members.items() if key != "img_dt"}
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a glyph file (.npz): {error}") from error


def _check_header(path: Path, key: str, archive: zipfile.ZipFile, member: str, sizes: dict) -> None:
    """Checks type and shape of one array against its layout and the axes met before, by its header."""
    with archive.open(member) as file:
        major, _ = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        declared = file.tell() + math.prod(shape) * dtype.itemsize
    layout = LAYOUTS[key]
    if dtype.kind not in layout.kinds:
        raise UserError(f"{path}: {key} holds {dtype}, expected {layout.dtype} type")
    expected = ("N", *layout.axes)
    known = [sizes.get(axis, axis) for axis in expected]
    matches = len(shape) == len(known) and all(
        isinstance(want, str) or want == size for want, size in zip(known, shape, strict=True)
    )
    if not matches:
        wanted = ", ".join(map(str, known))
        raise UserError(f"{path}: {key} has shape {tuple(shape)}, expected ({wanted}{',' * (len(known) == 1)})")
    if not shape[0]:
        raise UserError(f"{path}: {key} is empty, expected one row per glyph")
    sizes |= {axis: size for axis, size in zip(expected, shape, strict=True) if isinstance(axis, str)}
    if declared != archive.getinfo(member).file_size:
        raise UserError(f"{path}: {key} is damaged: shape {tuple(shape)} does not fit the size of its data")


def _read_array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False)


def _check_values(path: Path, key: str, wrong: np.ndarray, what: str) -> None:
    """Raises `UserError` naming the first place [row, token] at which `wrong` [N, L] is True."""
    if wrong.any():
        row, token = np.argwhere(wrong)[0]
        raise UserError(f"{path}: {key}[{row}, {token}] {what}")


def _check_contour_order(path: Path, ids: np.ndarray, drawn: np.ndarray) -> None:
    """Raises `UserError` unless ids of a row's tokens before END are all -1, or count 0, 1, ... in order."""
    for row, valid in enumerate(drawn):
        row_ids = ids[row][valid].astype(np.int64)
        steps = np.diff(row_ids, prepend=0)
        if (row_ids != -1).any() and ((steps < 0) | (steps > 1) | (row_ids[0] != 0)).any():
            raise UserError(f"{path}: contour_ids[{row}] do not count the contours 0, 1, ... in stored order")
