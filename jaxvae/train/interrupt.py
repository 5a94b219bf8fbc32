"""Signals that ask a training to end: it makes its step to the end, saves, and goes."""

import os
import signal
import threading


class Interrupt:
    """While it is entered, SIGTERM and SIGINT (Ctrl-C) are noted in `received` instead of ending the process.

    A second SIGINT ends the process at once, for whoever cannot wait. In a thread other than the main one signals are
    left alone, as Python hands them to the main thread only.
    """

    def __init__(self):
        self.received: signal.Signals | None = None  # the first one
        self._asked_by_hand = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for wanted in (signal.SIGTERM, signal.SIGINT):
                self._before[wanted] = signal.signal(wanted, self._note)
        return self

    def __exit__(self, *_) -> None:
        for wanted, handler in self._before.items():
            signal.signal(wanted, handler)

    def _note(self, number: int, frame) -> None:
        del frame
        if number == signal.SIGINT:
            if self._asked_by_hand:
                # Not as an exception: XLA crashes if one passes through it while it compiles.
                os._exit(130)
            self._asked_by_hand = True
        self.received = self.received or signal.Signals(number)
