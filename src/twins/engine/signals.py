"""SIGINT and SIGTERM: the first stops the training after the current step, the second kills the process."""

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
"""A launcher repeats the signal that the terminal has already sent; a signal this soon after the first is ignored."""


class Stop:
    """Whether this process received a stop signal."""

    def __init__(self) -> None:
        self.requested = False
        self._requested_at = 0.0

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: record the first, restore the default handler and die of the second."""
        if not self.requested:
            self.requested, self._requested_at = True, time.monotonic()
        elif time.monotonic() - self._requested_at > ECHO_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yield a `Stop` that SIGINT and SIGTERM set. Outside the main thread Python allows no handlers: it stays unset."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {signum: signal.signal(signum, stop.handle) for signum in SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


@contextmanager
def block_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM in child processes that are started inside this block.

    Terminals and launchers signal the whole process group. A loader process that died of it would end the run before
    its state is saved. The children end with their parent.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
