from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from twins.engine.signals import stop_on_signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_requests_a_stop_and_handlers_are_restored(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with stop_on_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signum)
        time.sleep(0.01)
        assert stop.requested
    assert signal.getsignal(signum) is before


def test_the_second_signal_kills_the_process() -> None:
    code = (
        "import time; from twins.engine.signals import stop_on_signals\n"
        "with stop_on_signals():\n    print('ready', flush=True)\n    while True: time.sleep(0.02)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM


def test_the_first_signal_is_acknowledged_while_the_main_thread_is_in_a_long_call() -> None:
    acknowledged = []
    with stop_on_signals(lambda message: acknowledged.append((message, stop.requested))) as stop:
        stop.after_step("stopping")
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        hashlib.pbkdf2_hmac(
            "sha256", b"", b"", 3_000_000
        )  # like a backward pass, no instruction of Python's in between
        assert stop.requested
    assert acknowledged == [("stopping", False)]


def test_a_signal_raises_where_nothing_could_be_lost_also_after_a_stop() -> None:
    messages: list[str] = []
    with pytest.raises(KeyboardInterrupt), stop_on_signals(messages.append) as stop:  # noqa: PT012
        stop.after_step("saving")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert stop.requested
        stop.at_once("without the report")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5.0)
    assert messages == ["saving", "without the report"]


def test_training_in_a_thread_works_without_signal_handlers() -> None:
    requested = []

    def work() -> None:
        with stop_on_signals() as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]
