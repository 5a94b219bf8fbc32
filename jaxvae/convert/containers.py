"""Files that hold named tensors: PyTorch checkpoints, `.npz`, `.safetensors`.

Nothing in a file is trusted: no pickle but what `torch.load(weights_only=True)` lets pass.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from jaxvae.errors import UserError


class Container(NamedTuple):
    """What a file holds: arrays by name, and facts about them as texts ('step', 'heads'), as far as it has any."""

    tensors: dict[str, np.ndarray]
    facts: dict[str, str]


def read_container(path: str | Path, parts: Sequence[str]) -> Container:
    """The tensors of a `.pt`, `.npz` or `.safetensors`.

    Args:
      parts: keys of the state dictionaries in a `.pt`. Their names get the key in front, such as `enc.pix.ln.bias`; in
        the other two formats they have it already.

    Raises:
      UserError: if the file is not there, cannot be read or is of another kind, or torch is missing for a `.pt`.
    """
    path = Path(path).expanduser()
    readers = {".pt": _read_pt, ".npz": _read_npz, ".safetensors": _read_safetensors}
    if not path.is_file():
        raise UserError(f"IN = {str(path)!r}: there is no such file: name a checkpoint, {', '.join(readers)}")
    if path.suffix not in readers:
        raise UserError(f"IN = {str(path)!r} has an unknown ending {path.suffix!r}: it must be {', '.join(readers)}")
    return readers[path.suffix](path, parts)


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> None:
    """Writes a `.safetensors` whole or not at all.

    Raises:
      UserError: if it cannot be written.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".tmp")
    # The library writes the memory of an array in its order, whatever the strides say.
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        safetensors.numpy.save_file(contiguous, beside, dict(facts))
        os.replace(beside, path)
    except (OSError, safetensors.SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"OUT = {str(path)!r} cannot be written: {error}: name another place") from None


def _read_pt(path: Path, parts: Sequence[str]) -> Container:
    try:
        import torch
    except ImportError:
        raise UserError(f"{path} needs torch to be read: pip install 'jaxvae[torch]'") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a PyTorch checkpoint of tensors: {_first_line(error)}") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{path} holds a {type(found).__name__}: it must be a dictionary with {', '.join(parts)}")
    tensors = {}
    for part in parts:
        if not isinstance(found.get(part), Mapping):
            has = ", ".join(map(str, found)) or "nothing"
            raise UserError(f"{path} has no state dictionary {part!r}, it has {has}: it must have {', '.join(parts)}")
        for name, value in found[part].items():
            if not isinstance(value, torch.Tensor):
                raise UserError(f"{path}: {part}.{name} is a {type(value).__name__}: it must be a tensor")
            if value.dtype == torch.bfloat16:  # NumPy has none
                raise UserError(f"{path}: {part}.{name} is bfloat16: it must be float32")
            tensors[f"{part}.{name}"] = value.detach().numpy()
    step = found.get("step")
    return Container(tensors, {"step": str(step)} if isinstance(step, int) else {})


def _read_npz(path: Path, parts: Sequence[str]) -> Container:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Container({name: archive[name] for name in archive.files}, {})
    # AttributeError: a single array under this name.
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as arrays: {_first_line(error)}") from None


def _read_safetensors(path: Path, parts: Sequence[str]) -> Container:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return Container({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (OSError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {_first_line(error)}") from None


def _first_line(error: Any) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
