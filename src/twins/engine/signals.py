"""SIGINT and SIGTERM: the first asks the loop to stop after its step, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 0.3
"""A launcher passes on what the terminal has sent already: so soon after the first, a signal is not a second wish."""


class Stop:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal: remember the first, die of the second as if nobody listened."""
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > ECHO_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Give a `Stop` that SIGINT and SIGTERM set; in a thread, where Python allows no handlers, nothing sets it."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signum: signal.signal(signum, stop.handle) for signum in SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def block_signals() -> Iterator[None]:
    """Start child processes in this block that SIGINT and SIGTERM do not reach.

    Terminals and launchers signal whole groups: a loading process that dies of that would take the run with it
    before its state is saved. Children end with their parent.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
