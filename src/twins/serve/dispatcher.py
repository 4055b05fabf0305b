"""`Dispatcher`: queues, workers and model versions; it gives batches to workers and answers to requests."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twins.errors import TwinsError, WeightsError
from twins.serve.batching import Item
from twins.serve.config import ServeConfig
from twins.serve.messages import (
    LENGTH,
    Done,
    Drop,
    Failure,
    Load,
    Loaded,
    Run,
    WorkerSettings,
    pack,
)
from twins.serve.queues import Queues, Served, settle
from twins.serve.spawn import run_worker

IN_FLIGHT = 2
"""Batches that a worker has: one that it computes, and one whose images it decodes meanwhile."""
ATTEMPTS = 2
"""Workers that an image may take down before it is refused."""
BROKEN = 3
"""Starts in a row that fail before requests are refused at once instead of waiting for a worker."""
PRELOAD = ["twins.serve.worker"]
"""Imported once by the process that workers are forked from, so that a new one is ready within a second."""

log = logging.getLogger("twins.serve")


@dataclass(eq=False)
class Worker:
    """A worker process as the server sees it."""

    number: int
    process: Any
    writer: asyncio.StreamWriter
    keys: set[str] = field(default_factory=set)
    """Models that it has loaded."""
    loads: dict[str, asyncio.Future[Loaded]] = field(default_factory=dict)
    batches: dict[int, tuple[Served, list[Item]]] = field(default_factory=dict)
    """Batches in flight by number."""
    loading: asyncio.Task[None] | None = None

    def send(self, message: Any) -> None:
        """Send a message; a worker that died is noticed by its reader."""
        self.writer.write(pack(message))

    async def load(self, key: str, path: str) -> Loaded:
        """Load a model, and return once it has answered its first image.

        Raises:
            ConnectionError: the worker died.
        """
        self.loads[key] = asyncio.get_running_loop().create_future()
        self.send(Load(key, path))
        loaded = await self.loads[key]
        if loaded.description is not None:
            self.keys.add(key)
        return loaded


class Dispatcher:
    """Gives batches to workers, keeps the number of workers, and switches models.

    Args:
        config: settings of the server.
        queues: the models, and what waits for them.
    """

    def __init__(self, config: ServeConfig, queues: Queues) -> None:
        self.config, self.queues, self.models = config, queues, queues.models
        self.workers: list[Worker] = []
        self.restarts = 0
        self.stopping = False
        self._failures = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._number = 0
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._folder = Path(tempfile.mkdtemp(prefix="twins-serve-"))
        self._switching = asyncio.Lock()

    async def start(self) -> None:
        """Start the workers, and return when each has loaded each model and answered an image.

        Raises:
            TwinsError: a model cannot be loaded.
        """
        for served in self.models.values():
            served.state = served.source.state()
            served.path = await asyncio.to_thread(served.source.copy, self._folder)
        self._tasks = [asyncio.create_task(self._keep_worker(i)) for i in range(self.config.workers)]
        self._tasks.append(asyncio.create_task(self._dispatch()))
        await self._started
        if self.config.reload_seconds:
            self._tasks.append(asyncio.create_task(self._watch()))

    async def stop(self) -> None:
        """End the workers; requests that are left get 503."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        self.queues.close("the server is stopping")
        for worker in self.workers:
            worker.writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def ready(self) -> bool:
        """Whether each worker has been ready once, and one with all models is there."""
        return self._started.done() and not self.stopping and bool(self._complete())

    @property
    def live_workers(self) -> int:
        """Workers that have loaded all models."""
        return len(self._complete())

    async def reload(self, name: str) -> bool:
        """Load a model's file beside the version in use, and switch to it; return whether that worked.

        A file that cannot be loaded leaves the version in use.
        """
        async with self._switching:
            served = self.models[name]
            served.state = served.source.state()
            version, path, error = served.version + 1, "", ""
            key = f"{name}@{version}"
            try:
                path = await asyncio.to_thread(served.source.copy, self._folder)
                loads = [worker.load(key, path) for worker in self._complete()]
                results = await asyncio.gather(*loads, return_exceptions=True)
                loaded = [result for result in results if isinstance(result, Loaded)]
                error = next((one.error for one in loaded if one.error), "" if loaded else "no worker could load it")
            except (TwinsError, OSError) as failure:
                error = str(failure)
            old_key, old_path = served.key, served.path
            if error:
                log.error("kept the old %s: %s", name, error, extra={"model": name})
            else:
                served.version, served.path, served.description = version, path, loaded[0].description
                log.info("switched %s to version %d", name, version, extra={"model": name})
            for worker in self.workers:
                worker.keys.discard(key if error else old_key)
                worker.send(Drop(key if error else old_key))
                if worker.loading is None or worker.loading.done():  # it got ready after the loads had begun
                    worker.loading = asyncio.create_task(self._load_models(worker))
            await asyncio.to_thread(_remove_copy, path if error else old_path, self._folder)
            return not error

    async def _watch(self) -> None:
        """Reload models whose files have changed, once they no longer change between two looks."""
        seen = {name: served.state for name, served in self.models.items()}
        while True:
            await asyncio.sleep(self.config.reload_seconds)
            for name, served in self.models.items():
                state = await asyncio.to_thread(served.source.state)
                if state and state != served.state and state == seen[name]:
                    await self.reload(name)
                seen[name] = state

    async def _keep_worker(self, number: int) -> None:
        """Run a worker, and another one after each that dies."""
        while True:
            started = time.monotonic()
            try:
                await self._run_worker(number)
            except OSError as error:
                log.error("worker %d cannot be started: %s", number, error)
            if self.stopping or (self._started.done() and self._started.exception()):
                return
            self.restarts += 1
            short = time.monotonic() - started < 5
            await asyncio.sleep(min(5.0, 0.1 * 2**self._failures) if short else 0)

    async def _run_worker(self, number: int) -> None:
        """Start a worker, and return when it has died; its batches are given to others."""
        ours, theirs = socket.socketpair()
        settings = WorkerSettings(self.config.device, self.config.worker_threads)
        process = self._context.Process(
            target=run_worker, args=(theirs, settings), name=f"twins-worker-{number}", daemon=True
        )
        await asyncio.to_thread(process.start)
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = Worker(number, process, writer)
        self.workers.append(worker)
        worker.loading = asyncio.create_task(self._load_models(worker))
        try:
            while True:
                length = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
                self._receive(worker, _unpack(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            worker.loading.cancel()
            self.workers.remove(worker)
            writer.close()
            if not self.stopping:
                self._lost(worker)
            await asyncio.to_thread(_end, process)

    async def _load_models(self, worker: Worker) -> None:
        """Load what a new worker lacks."""
        try:
            while missing := [served for served in self.models.values() if served.key not in worker.keys]:
                for served in missing:
                    loaded = await worker.load(served.key, served.path)
                    if loaded.error:
                        raise WeightsError(loaded.error)
                    served.description = loaded.description
        except (WeightsError, ConnectionError) as error:
            self._failures += 1
            if self._failures >= BROKEN:
                self.queues.close("the server has no worker that starts")
            log.error("worker %d: %s", worker.number, error)
            if not self._started.done():
                self._started.set_exception(error if isinstance(error, TwinsError) else WeightsError(str(error)))
            worker.writer.close()
            return
        self._failures = 0
        self.queues.open()
        log.info("worker %d is ready", worker.number, extra={"pid": worker.process.pid})
        if len(self._complete()) == self.config.workers and not self._started.done():
            self._started.set_result(None)
        self.queues.wake.set()

    def _free_worker(self) -> Worker | None:
        """Return the worker with the fewest batches, or `None` if all have enough."""
        worker = min(self._complete(), key=lambda worker: len(worker.batches), default=None)
        return worker if worker is not None and len(worker.batches) < IN_FLIGHT else None

    def _complete(self) -> list[Worker]:
        """Return the workers that have loaded all models."""
        keys = {served.key for served in self.models.values()}
        return [worker for worker in self.workers if keys <= worker.keys]

    def _receive(self, worker: Worker, message: Loaded | Done) -> None:
        if isinstance(message, Loaded):
            load = worker.loads.pop(message.key)
            if not load.done():
                load.set_result(message)
            return
        self.queues.finish(*worker.batches.pop(message.number), message.answers, message.seconds)

    def _lost(self, worker: Worker) -> None:
        """Queue the images of a worker that died once more, each for a batch of its own; refuse what did so before."""
        log.error("worker %d died (exit code %s)", worker.number, worker.process.exitcode)
        for load in worker.loads.values():
            if not load.done():
                load.set_exception(ConnectionError(f"worker {worker.number} died while it loaded a model"))
        for served, items in worker.batches.values():
            left = [item for item in items if not item.answer.done()]
            for item in left:
                item.attempts += 1
                if item.attempts >= ATTEMPTS:
                    settle(item, Failure(503, "the worker of this request died, as another one before; send it again"))
            served.queue.add([item for item in left if not item.answer.done()], first=True)
        self.queues.wake.set()

    async def _dispatch(self) -> None:
        """Give batches to workers as they fall due."""
        while True:
            while (worker := self._free_worker()) is None:
                self.queues.wake.clear()
                await self.queues.wake.wait()
            served, batch = await self.queues.next_batch()
            if worker not in self._complete():  # it died, or lacks a new model, while no batch was due
                served.queue.add(batch, first=True)
                continue
            self._number += 1
            worker.batches[self._number] = served, batch
            worker.send(Run(self._number, served.key, tuple(item.job for item in batch)))


def _unpack(body: bytes) -> Any:
    import pickle

    return pickle.loads(body)


def _end(process: Any) -> None:
    """Wait for a process to end, and kill it if it does not."""
    process.join(2)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _remove_copy(path: str, folder: Path) -> None:
    """Remove the copy of a model; the path may be a published name instead."""
    parent = Path(path).parent
    if path and parent.parent == folder:
        shutil.rmtree(parent, ignore_errors=True)
