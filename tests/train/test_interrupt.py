"""Signals that ask a training to end."""

import signal

from jaxvae.train.interrupt import Interrupt


def test_the_first_signal_says_how_it_ends_and_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Interrupt() as interrupt:
        assert interrupt.received is None
        signal.raise_signal(signal.SIGTERM)
        # Ctrl-C beside it asks for nothing new: the process still ends as SIGTERM ends it.
        signal.raise_signal(signal.SIGINT)
        assert interrupt.received == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
