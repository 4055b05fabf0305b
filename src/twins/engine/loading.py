"""Batches as they come from loading processes, whose deaths and errors end in one sentence."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twins.engine.contracts import Batch
from twins.engine.signals import shielded
from twins.errors import TrainingError, TwinsError

_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""Loaders whose processes have not ended yet."""


def loading(start: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
    """Yield batches; `start` makes the loader, whose processes no signal to the group reaches.

    Raises:
        TwinsError: what a loading process raised.
        TrainingError: a loading process died.
    """
    with shielded():
        batches = iter(start())
    _watch(batches)
    failure: TwinsError | None = None
    try:
        while failure is None:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except TwinsError as error:
                failure = _plain(error)
            except (RuntimeError, ConnectionError, EOFError) as error:
                # a batch on its way from a process that dies breaks its connection before torch reports the death
                if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                    raise
                failure = TrainingError(
                    f"a loading process died ({str(error).splitlines()[0]}), most likely for want of memory; use "
                    "fewer --workers and go on with twins train --resume"
                )
            else:
                yield batch
    finally:
        _end(batches)
    raise failure


def _watch(batches: Any) -> None:
    """End a loader's processes with ours, whoever still holds the loader: no signal would end them."""
    if not hasattr(batches, "_shutdown_workers"):
        return
    if not _open:
        atexit.register(_end_all)
    _open.add(batches)


def _end(batches: Any) -> None:
    if batches in _open:
        _open.discard(batches)
        workers = list(batches._workers)
        batches._shutdown_workers()
        for (
            worker
        ) in workers:  # torch's last resort is a signal that they do not hear, and the exit would wait for them
            if worker.is_alive():
                worker.kill()


def _end_all() -> None:
    for batches in list(_open):
        _end(batches)


def _plain(error: TwinsError) -> TwinsError:
    """Return an error without the traceback that its way between processes put into its text."""
    name = f"{type(error).__name__}: "
    lines = [line.partition(name)[2] for line in str(error).splitlines() if name in line]
    return type(error)(lines[-1]) if str(error).startswith("Caught") and lines else error
