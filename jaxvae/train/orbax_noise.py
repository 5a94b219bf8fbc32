"""Silence where orbax would print tracebacks beside the exception that it raises.

When one of its reads or writes fails, it closes the event loop to which all others report, logs the failure at every
level that it passes, and raises it. The reports of the others come some time later, from other threads. What is raised
is all that is needed.
"""

import functools
import logging
import sys

# What the reads and writes that are still under way run into.
AFTER_A_FAILURE = ("Event loop is closed", "Encountered error while reading array index")


@functools.cache
def silence() -> None:
    """From now on, for this process: failures of orbax are raised and not printed. Warnings stay."""
    hook = sys.unraisablehook

    def quiet(unraisable):
        if not any(words in str(unraisable.exc_value) for words in AFTER_A_FAILURE):
            hook(unraisable)

    sys.unraisablehook = quiet
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    logging.getLogger("absl").addFilter(lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname)
