"""SIGINT and SIGTERM: the first is acknowledged at once and stops the run as soon as it can, the second kills it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 0.3
"""A launcher repeats the signal that the terminal has already sent; a signal this soon after the first is ignored."""
SHOW_CURSOR = b"\x1b[?25h"


class Stop:
    """Whether this process received a stop signal, and what the first one does.

    Args:
        say: prints the acknowledgement.
    """

    def __init__(self, say: Callable[[str], None] = lambda message: None) -> None:
        self.requested = False
        self._say, self._message, self._at_once = say, "", False
        self._requested_at = 0.0

    def after_step(self, message: str) -> None:
        """From now on, let the first signal set `requested`, which the training loop reads after each step.

        Args:
            message: the acknowledgement.
        """
        self._message, self._at_once = message, False

    def at_once(self, message: str) -> None:
        """From now on, let the first signal raise KeyboardInterrupt: nothing could be lost; see `after_step`."""
        self._message, self._at_once, self.requested = message, True, False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: the first as configured; restore the default handler and die of the second."""
        if not self.requested:
            self.requested, self._requested_at = True, time.monotonic()
            if self._at_once:
                raise KeyboardInterrupt
        elif time.monotonic() - self._requested_at > ECHO_SECONDS:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), SHOW_CURSOR)  # a progress bar hides it
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def acknowledge(self, received: socket.socket) -> None:
        """Print the acknowledgement of the first signal after each `after_step` or `at_once`, until the socket closes.

        Python calls handlers between two of its instructions, and a backward pass is a single one that can take
        seconds, so another thread waits for the signals.
        """
        acknowledged = ""
        while numbers := received.recv(16):
            if any(number in SIGNALS for number in numbers) and acknowledged != self._message:
                acknowledged = self._message
                self._say(acknowledged)


@contextmanager
def stop_on_signals(say: Callable[[str], None] = lambda message: None) -> Iterator[Stop]:
    """Yield a `Stop` that SIGINT and SIGTERM set. Outside the main thread Python allows no handlers: it stays unset.

    Args:
        say: prints the acknowledgement of a signal; called in another thread.
    """
    stop = Stop(say)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    received, sent = socket.socketpair()
    sent.setblocking(False)
    listener = threading.Thread(target=stop.acknowledge, args=(received,), daemon=True)
    listener.start()
    wakeup = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    handlers = {signum: signal.signal(signum, stop.handle) for signum in SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(wakeup)
        sent.close()
        listener.join(1.0)  # it may still print
        received.close()


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
