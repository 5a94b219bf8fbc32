"""What lies in a folder, to prove that something left it alone."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes | None]:
    """{path: bytes} of every file below `folder`, with None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
