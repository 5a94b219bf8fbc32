"""Silence where orbax would print a traceback beside the exception that it raises."""

import contextlib
import logging
import sys


@contextlib.contextmanager
def one_exception():
    """While orbax reads or writes: its exception, and nothing else.

    When one of its reads or writes fails, it closes the event loop to which all others report. They end some time
    later, so the silence begins before the first and lasts after a failure.
    """
    hook, log = sys.unraisablehook, logging.getLogger("asyncio")

    def quiet(unraisable):
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    def retrieved(record):
        return "exception was never retrieved" not in record.getMessage()

    sys.unraisablehook = quiet
    log.addFilter(retrieved)
    yield
    sys.unraisablehook = hook
    log.removeFilter(retrieved)
