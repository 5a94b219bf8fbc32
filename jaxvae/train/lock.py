"""One training per run folder: a lock that the system lifts when its process ends, however it ends."""

import contextlib
import os
import platform
from pathlib import Path

from jaxvae.errors import UserError
from jaxvae.run import LOCK

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None


class RunLock:
    """Held from its making to `close`; leaves no trace in the folder unless `keep` was called.

    A start that is refused must leave the folder as it was, and whether it is cannot be known before much of the folder
    has been read. So a lock file that is there is locked at once, with our process in it until `close` puts back what
    it held; one that is missing is made by `keep`, when nothing else can be refused. The file itself stays for ever:
    whoever removed it could remove the one that another process has just locked.

    Args:
      folder: the run folder.
      enabled: False locks nothing: of several processes that train together, the first holds the lock.

    Raises:
      UserError: if another process holds the lock, or the lock file cannot be written.
    """

    def __init__(self, folder: str | Path, enabled: bool = True):
        self.folder, self.path = Path(folder), Path(folder) / LOCK
        self.enabled = enabled and fcntl is not None
        self.handle: int | None = None
        self.before: bytes | None = None
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._take()
        except OSError as error:
            raise self._unwritable(error) from None

    def keep(self) -> None:
        """Comes before the first write into the folder; makes the folder and the lock file if they are missing.

        Raises:
          UserError: if another process was faster, or the folder cannot be written.
        """
        try:
            if self.handle is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Who has made the file since we looked has started here. Even if that training has ended again, what
                # we read of the folder is no longer true.
                self._take(os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise self._in_use() from None
        except OSError as error:
            raise self._unwritable(error) from None
        self.before = None

    def close(self) -> None:
        """Lets go of the folder; without `keep` the lock file is again what it was."""
        if self.handle is not None:
            if self.before is not None:
                self._write(self.before)
            os.close(self.handle)
            self.handle = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _take(self, flags: int = 0) -> None:
        """Opens and locks the file and writes this process into it."""
        if not self.enabled:
            return
        handle = os.open(self.path, os.O_RDWR | flags, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise self._in_use() from None
        except OSError:
            pass  # a file system without locks (some network ones): training unguarded is better than not at all
        self.handle, self.before = handle, self.path.read_bytes()
        # With the machine, because several may share the folder.
        self._write(f"{os.getpid()} on {platform.node()}\n".encode())

    def _write(self, content: bytes) -> None:
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, content, 0)

    def _in_use(self) -> UserError:
        holder = self.path.read_text(errors="replace")
        return UserError(
            f"{self.folder} is in use: process {holder or '(unknown)'} is training there; wait until it has ended, or "
            "choose another --workdir"
        )

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"--workdir {self.folder} cannot be written: {error}")
