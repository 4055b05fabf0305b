"""Batches from loader processes; a process that dies or raises ends in one clear error."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch

from twins.data.loading.batch import Batch
from twins.engine.signals import block_signals
from twins.errors import TrainingError, TwinsError

_open_loaders: dict[int, Any] = {}
"""Loaders whose processes still run, by identity. Strong references: weak ones into a garbage cycle are cleared before
any finaliser in it runs."""


def load_batches(start: Callable[[], Iterable[Batch]]) -> Generator[Batch]:
    """Yield batches from the loader that `start` creates; its processes ignore SIGINT and SIGTERM.

    Raises:
        TwinsError: raised in a loader process.
        TrainingError: a loader process died.
    """
    with block_signals():
        batches = iter(start())
    _track(batches)
    failure: TwinsError | None = None
    try:
        while failure is None:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except TwinsError as error:
                failure = _without_traceback(error)
            except (RuntimeError, ConnectionError, EOFError) as error:
                # a process that dies while it sends a batch breaks the connection before torch reports its death
                if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                    raise
                reason = str(error).partition("\n")[0].strip() or "its connection was lost"
                failure = TrainingError(
                    f"a loading process died ({reason}), most likely because memory ran out; use "
                    "fewer `workers`; continue a training run with `resume`"
                )
            else:
                yield batch
    finally:
        _stop(batches)
    raise failure


def _track(batches: Any) -> None:
    """Keep a loader until its processes have ended, at the latest when ours exits: no signal would end them."""
    if not hasattr(batches, "_shutdown_workers"):
        return
    # torch's signal handler would raise at any line when a loader process dies; now the next batch raises
    torch._C._remove_worker_pids(id(batches))
    batches._worker_pids_set = False
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)  # registered after the handlers of torch and multiprocessing, so it runs before them
    _open_loaders[id(batches)] = batches


def _stop(batches: Any) -> None:
    if _open_loaders.pop(id(batches), None) is None:
        return
    workers = list(batches._workers)
    batches._shutdown_workers()
    for worker in workers:
        if worker.is_alive():  # torch sends SIGTERM, which they block, and our exit would wait for them
            worker.kill()


def _stop_all() -> None:
    for batches in list(_open_loaders.values()):
        _stop(batches)


def _without_traceback(error: TwinsError) -> TwinsError:
    """Return an error without the loader process's traceback, which torch puts into its message."""
    name = f"{type(error).__name__}: "
    lines = [line.partition(name)[2] for line in str(error).splitlines() if name in line]
    return type(error)(lines[-1]) if str(error).startswith("Caught") and lines else error
