"""Folders in tests: what lies in them, to prove that something left them alone; and a disk that is full."""

import contextlib
import resource
from pathlib import Path


def contents(folder: Path) -> dict[str, bytes | None]:
    """{path: bytes} of every file below `folder`, with None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextlib.contextmanager
def no_room_for_files_above(size):
    """Writing more into a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
