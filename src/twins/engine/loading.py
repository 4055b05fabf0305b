"""Batches as they come from loading processes, whose deaths and errors end in one sentence."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch

from twins.data.loading.batch import Batch
from twins.engine.signals import block_signals
from twins.errors import TrainingError, TwinsError

_open: dict[int, Any] = {}
"""Loaders whose processes have not ended yet, by identity; held here, for weak references to what lies in a cycle of
garbage are gone before anything in it can act."""


def load_batches(start: Callable[[], Iterable[Batch]]) -> Generator[Batch]:
    """Yield batches; `start` makes the loader, whose processes no signal to the group reaches.

    Raises:
        TwinsError: what a loading process raised.
        TrainingError: a loading process died.
    """
    with block_signals():
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
                reason = str(error).partition("\n")[0].strip() or "its connection was lost"
                failure = TrainingError(
                    f"a loading process died ({reason}), most likely for want of memory; use "
                    "fewer `workers`; a training run goes on with `resume`"
                )
            else:
                yield batch
    finally:
        _end(batches)
    raise failure


def _watch(batches: Any) -> None:
    """Hold a loader with processes until they have ended, at the latest with ours: no signal would end them."""
    if not hasattr(batches, "_shutdown_workers"):
        return
    # torch would raise a process's death wherever this one is at that moment: it is told when a batch is asked for
    torch._C._remove_worker_pids(id(batches))
    batches._worker_pids_set = False
    atexit.unregister(_end_all)
    atexit.register(_end_all)  # after all that torch and multiprocessing registered, so it runs before
    _open[id(batches)] = batches


def _end(batches: Any) -> None:
    if _open.pop(id(batches), None) is None:
        return
    workers = list(batches._workers)
    batches._shutdown_workers()
    for worker in workers:
        if worker.is_alive():  # torch's last resort is a signal that they do not hear, and the exit would wait for them
            worker.kill()


def _end_all() -> None:
    for batches in list(_open.values()):
        _end(batches)


def _plain(error: TwinsError) -> TwinsError:
    """Return an error without the traceback that its way between processes put into its text."""
    name = f"{type(error).__name__}: "
    lines = [line.partition(name)[2] for line in str(error).splitlines() if name in line]
    return type(error)(lines[-1]) if str(error).startswith("Caught") and lines else error
