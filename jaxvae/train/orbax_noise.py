"""Silence where orbax would print tracebacks beside the exception that it raises.

When one of its reads or writes fails, it closes the event loop to which all others report, logs the failure at every
level that it passes, and raises it. The reports of the others come some time later, from other threads. What is raised
is all that is needed.
"""

import functools
import logging
import sys


@functools.cache
def silence() -> None:
    """From now on, for this process: failures of orbax are raised and not printed. Warnings stay."""
    hook = sys.unraisablehook

    def quiet(unraisable):
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = quiet
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    logging.getLogger("absl").addFilter(lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname)
