"""The data file of the original system: arrays of padded outlines in one `.npz`.

Source: specification of the glyph VAE, section 2.2. Nothing in the file is trusted: no pickles, and the sizes
that an array declares are checked before memory is taken for it. What is wrong with the file as a whole is
refused here; rows that are broken are found in `jaxvae.data.glyphs.rows`, and left out.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from jaxvae.data.glyphs.rows import broken_rows
from jaxvae.data.glyphs.tokens import Glyph, glyph_label, reason_to_skip, topology_bits
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError
from jaxvae.outlines import COMMAND_NAMES, NUM_COMMANDS, PAD

# The file does not say how large an em is; the square [-1, 1] is taken for it.
UNKNOWN_EM = 2.0

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


def read_npz(path: Path | str, max_tokens: int) -> tuple[list[Glyph], Skipped]:
    """The glyphs of a file of the original, one per row, named 'row0', 'row1', ...

    Only valid tokens that are not PAD are kept; contour ids and END stay as they are. Where the file has no
    `contour_ids`, `norm` or `unicode` they are -1, (1, 0, 0) and -1; topology bits are derived from the
    commands. Broken rows (`broken_rows`), glyphs without contours and those longer than `max_tokens` (END
    included) are skipped and named, each under the first reason that holds.

    Raises:
      UserError: if the file or an array in it is not what it should be, or a command is not in the vocabulary;
        the message names file and key.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    commands, coords = arrays["seq_cmd"], arrays["seq_arg"]
    arrays.setdefault("contour_ids", np.full(commands.shape, -1))
    arrays.setdefault("norm", np.tile(np.float32([1, 0, 0]), (len(commands), 1)))
    codepoints = arrays.get("unicode", np.full(len(commands), -1))
    keep = arrays["seq_mask"].astype(bool) & (commands != PAD)
    _check_vocabulary(path, commands, keep)
    broken = broken_rows(commands, coords, arrays["contour_ids"], arrays["norm"], keep)

    glyphs, skipped = [], Skipped()
    for row, valid in enumerate(keep):
        name, codepoint = f"row{row}", int(codepoints[row])
        if row in broken:
            reason, where = broken[row]
            skipped.add(reason, f"{glyph_label(path.stem, name, codepoint)}: {where}")
            continue
        row_commands = commands[row][valid].astype(np.int32)
        # Higher bits mean nothing, and only the lowest three are read.
        topology = arrays["seq_topo"][row][valid] & 7 if "seq_topo" in arrays else topology_bits(row_commands)
        glyph = Glyph(
            commands=row_commands,
            coords=coords[row][valid].astype(np.float32),
            contour_ids=arrays["contour_ids"][row][valid].astype(np.int32),
            topology=topology.astype(np.uint8),
            norm=arrays["norm"][row].astype(np.float32),
            em=UNKNOWN_EM,
            codepoint=codepoint,
            name=name,
            font=path.stem,
            file=path.stem,
            family=path.stem,
        )
        if reason := reason_to_skip(glyph, max_tokens):
            skipped.add(reason, glyph.label)
        else:
            glyphs.append(glyph)
    return glyphs, skipped


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
        raise UserError(
            f"{path} cannot be read as a glyph file: {error or type(error).__name__}: it must be a whole .npz, as "
            "numpy.savez writes it"
        ) from error


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
        raise UserError(f"{path}: {key} has shape {tuple(shape)} and so no row, expected one row per glyph")
    sizes |= {axis: size for axis, size in zip(expected, shape, strict=True) if isinstance(axis, str)}
    if declared != archive.getinfo(member).file_size:
        raise UserError(
            f"{path}: {key} is damaged: shape {tuple(shape)} does not fit the size of its data: write the file again"
        )


def _read_array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False)


def _check_vocabulary(path: Path, commands: np.ndarray, keep: np.ndarray) -> None:
    """Raises `UserError` naming the first valid command that is unknown.

    It is no matter of a single row: a file with other ids has another vocabulary, and all its rows mean something
    else.
    """
    unknown = np.argwhere(keep & ((commands < 0) | (commands >= NUM_COMMANDS)))
    if len(unknown):
        row, token = unknown[0]
        ids = ", ".join(f"{i} {name}" for i, name in enumerate(COMMAND_NAMES))
        raise UserError(f"{path}: seq_cmd[{row}, {token}] = {commands[row, token]} is no command: commands are {ids}")
