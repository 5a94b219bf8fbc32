"""Folders that are written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxvae.errors import UserError


@contextlib.contextmanager
def new_folder(flag: str, path: str | Path, marker: str) -> Iterator[Path]:
    """Gives an empty folder beside `path`, which takes its place if all went well.

    Args:
      flag: what the user calls it in a message.
      marker: a file that every folder of this kind has: only such a one, or an empty one, is replaced.

    Raises:
      UserError: if `path` holds something else, or cannot be written.
    """
    path = Path(path).expanduser()
    if path.exists() and not (path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))):
        raise UserError(f"{flag}={path} holds something else (no {marker}): name another folder")
    beside = path.with_name(path.name + ".tmp")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
        shutil.rmtree(path, ignore_errors=True)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be written ({error}): name another folder") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
