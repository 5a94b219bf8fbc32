"""The one error that a user can cause.

Whatever a user can get wrong (a key, a value, a file, a folder) raises `UserError` with a message of one line
that names the thing, shows what it holds and says what would work. The scripts print it and exit with status 2;
every other exception is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend; `str(error)` is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def choose(what: str, value: object, choices: Iterable[str]) -> None:
    """Raises `UserError` unless `value` is one of `choices`, naming the nearest and all of them."""
    choices = sorted(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"{what} = {value!r} is unknown: {hint}choose one of {', '.join(choices)}")
