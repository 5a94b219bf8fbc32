"""Files and folders as a user names them in a configuration: commas between them, `~` for the home folder."""

import os
from pathlib import Path

from jaxvae.errors import UserError


def existing_paths(text: str, key: str = "config.data.path") -> list[Path]:
    """The files and folders that `key = text` names, in its order.

    What exists under the whole of `text` is meant as a whole, its commas and blanks included. Otherwise commas
    separate entries, and blanks around an entry do not count.

    Raises:
      UserError: if an entry is empty or does not exist.
    """
    # os.path and not Path: Path raises where a long list is too long for a file name, or `~name` is nobody.
    whole = os.path.expanduser(text)
    if os.path.exists(whole):
        return [Path(whole)]
    entries = [entry.strip() for entry in text.split(",")]
    count = len(entries)
    return [
        _existing(entry, f"{key} = {text!r}: entry {i} of {count}", key) for i, entry in enumerate(entries, start=1)
    ]


def _existing(entry: str, which: str, key: str) -> Path:
    # An empty entry is not passed over: it is what an unset variable of the shell leaves behind.
    if not entry:
        raise UserError(f"{which} is empty: write one comma between two paths, none at an end")
    place = os.path.expanduser(entry)
    if not os.path.exists(place):
        meaning = f" ({place})" if place != entry else ""
        raise UserError(f"{key}: there is no file or folder {entry!r}{meaning}: name what exists, separated by commas")
    return Path(place)
