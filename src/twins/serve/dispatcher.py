"""`Dispatcher`: queues, workers and model versions; it gives batches to workers and answers to requests."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Coroutine
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
    unpack,
)
from twins.serve.queues import Queues, Served, settle
from twins.serve.spawn import run_worker

IN_FLIGHT = 2
"""Batches that a worker has: one that it computes, and one whose images it decodes meanwhile."""
ATTEMPTS = 2
"""Workers that an image may take down before it is refused."""
BROKEN = 3
"""Starts in a row that fail before requests that wait are refused, if there is no other worker."""
FIRST_PAUSE = 0.1
"""Time in seconds that is doubled with each start in a row that fails, to wait before the next."""
LONGEST_PAUSE = 5.0
"""Longest time in seconds between starts that fail."""
LOAD_SECONDS = 600.0
"""Time for a worker to load a model."""
LOOK_SECONDS = 1.0
"""Time between looks for workers that hang."""
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
    """Models that it has loaded, with their versions."""
    loads: dict[str, asyncio.Future[Loaded]] = field(default_factory=dict)
    batches: dict[int, tuple[Served, list[Item], float]] = field(default_factory=dict)
    """Batches in flight by number, with the time at which they were sent."""
    loading: asyncio.Task[None] | None = None
    lost: bool = False

    def send(self, message: Any) -> None:
        """Send a message; a worker that died is noticed by its reader."""
        self.writer.write(pack(message))

    async def load(self, key: str, path: str) -> Loaded:
        """Load a model, and return once it has answered its first image.

        Raises:
            ConnectionError: the worker died.
            TimeoutError: it takes too long.
        """
        if self.lost:
            raise ConnectionError(f"worker {self.number} died")
        self.loads[key] = asyncio.get_running_loop().create_future()
        self.send(Load(key, path))
        async with asyncio.timeout(LOAD_SECONDS):
            loaded = await self.loads[key]
        if loaded.description is not None:
            self.keys.add(key)
        return loaded

    def drop(self, key: str) -> None:
        """Forget a model."""
        self.keys.discard(key)
        self.send(Drop(key))


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
        self.fault: BaseException | None = None
        """Error of this program that ended a task of the dispatcher."""
        self._failures = 0
        self._tasks: set[asyncio.Task[None]] = set()
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
        for number in range(self.config.workers):
            self._spawn(self._keep_worker(number))
        self._spawn(self._dispatch())
        self._spawn(self._end_hanging_workers())
        await self._started
        if self.config.reload_seconds:
            self._spawn(self._watch())

    async def stop(self) -> None:
        """End the workers; requests that are left get 503."""
        self.stopping = True
        self.queues.close("the server is stopping")
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for worker in self.workers:
            worker.writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task; an error that it does not handle stops the server."""

        def ended(task: asyncio.Task[None]) -> None:
            """Keep the first error, and stop the server."""
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and self.fault is None:
                self.fault = error
                log.error("the server failed", exc_info=error)
                self.queues.close("the server failed")
                os.kill(os.getpid(), signal.SIGTERM)

        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    @property
    def ready(self) -> bool:
        """Whether each worker has been ready once, and one with all models is there."""
        return self._started.done() and not self.stopping and bool(self._complete())

    @property
    def live_workers(self) -> int:
        """Workers that have loaded all models."""
        return len(self._complete())

    def reload_all(self) -> None:
        """Reload all models, each as `reload` does."""
        for name in self.models:
            self._spawn(self.reload(name))

    async def reload(self, name: str) -> None:
        """Load a model's file beside the version in use, and switch to it.

        A file that cannot be loaded leaves the version in use. If no worker could try, the next look tries again.
        """
        async with self._switching:
            served = self.models[name]
            state, key, path = served.source.state(), f"{name}@{served.version + 1}", ""
            loaded: list[Loaded] = []
            try:
                path = await asyncio.to_thread(served.source.copy, self._folder)
                loaded = await self._load_everywhere(key, path)
                error = next((one.error for one in loaded if one.error), "" if loaded else "no worker could load it")
            except (TwinsError, OSError) as failure:
                error = str(failure)
            if loaded:
                served.state = state
            if error:
                log.error("kept the old %s: %s", name, error, extra={"model": name})
                for worker in self.workers:
                    worker.drop(key)
                self._remove_copy(path, key)
                return
            old_key, old_path = served.key, served.path
            served.version, served.path, served.description = served.version + 1, path, loaded[0].description
            log.info("switched %s to version %d", name, served.version, extra={"model": name})
            for worker in self.workers:
                if worker.loading is None or worker.loading.done():  # it may have got ready after the loads had begun
                    worker.loading = self._spawn(self._load_models(worker))
            self._spawn(self._retire(served, old_key, old_path))

    async def _load_everywhere(self, key: str, path: str) -> list[Loaded]:
        """Return what came of loading a model in all workers that have the others."""
        loads = [worker.load(key, path) for worker in self._complete()]
        results = await asyncio.gather(*loads, return_exceptions=True)
        return [result for result in results if isinstance(result, Loaded)]

    async def _retire(self, served: Served, key: str, path: str) -> None:
        """Forget an old version once no image waits for it."""
        while any(item.key == key for item in served.queue.items):
            await asyncio.sleep(0.02)
        for worker in self.workers:
            worker.drop(key)
        self._remove_copy(path, key)

    def _remove_copy(self, path: str, key: str) -> None:
        """Remove the copy of a model, unless a worker still reads it; then it stays until the server stops."""
        parent = Path(path).parent
        if path and parent.parent == self._folder and not any(key in worker.loads for worker in self.workers):
            shutil.rmtree(parent, ignore_errors=True)

    async def _watch(self) -> None:
        """Reload models whose files have changed, once they no longer change between two looks."""
        seen = {name: served.state for name, served in self.models.items()}
        while True:
            await asyncio.sleep(self.config.reload_seconds)
            for name, served in self.models.items():
                state = await asyncio.to_thread(served.source.state)
                if state and state != served.state and state == seen[name] and self._complete():
                    await self.reload(name)
                seen[name] = state

    async def _end_hanging_workers(self) -> None:
        """Kill workers that have not answered a batch for twice the time of an answer; they are replaced."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            limit = time.monotonic() - 2 * self.config.answer_seconds
            for worker in self.workers:
                if any(sent < limit for _, _, sent in worker.batches.values()):
                    log.error("worker %d hangs and is killed", worker.number)
                    worker.process.kill()

    async def _keep_worker(self, number: int) -> None:
        """Run a worker, and another one after each that dies."""
        while True:
            started = time.monotonic()
            try:
                await self._run_worker(number)
            except (OSError, EOFError) as error:  # no process could be started, or the one that forks workers died
                self._failed(number, f"a worker process could not be started ({error})")
            if self.stopping or (self._started.done() and self._started.exception()):
                return
            self.restarts += 1
            short = time.monotonic() - started < 5
            await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 30)) if short else 0)

    async def _run_worker(self, number: int) -> None:
        """Start a worker, and return when it has died; its batches are given to others."""
        ours, theirs = socket.socketpair()
        settings = WorkerSettings(self.config.device, self.config.worker_threads)
        process = self._context.Process(
            target=run_worker, args=(theirs, settings), name=f"twins-worker-{number}", daemon=True
        )
        with theirs:
            try:
                await asyncio.to_thread(process.start)
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = Worker(number, process, writer)
        self.workers.append(worker)
        worker.loading = self._spawn(self._load_models(worker))
        try:
            while True:
                length = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
                self._receive(worker, unpack(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.workers.remove(worker)
            writer.close()
            if not self.stopping:
                self._lose(worker)
            await asyncio.to_thread(_end, process)

    async def _load_models(self, worker: Worker) -> None:
        """Load what a worker lacks."""
        try:
            while missing := [served for served in self.models.values() if served.key not in worker.keys]:
                for served in missing:
                    key = served.key
                    loaded = await worker.load(key, served.path)
                    if key != served.key:  # the model was switched meanwhile
                        worker.drop(key)
                    elif loaded.error:
                        raise WeightsError(loaded.error)
                    else:
                        served.description = loaded.description
        except (WeightsError, ConnectionError, TimeoutError) as error:
            self._failed(worker.number, str(error))
            worker.writer.close()
            return
        self._failures = 0
        self.queues.open()
        log.info("worker %d is ready", worker.number, extra={"pid": worker.process.pid})
        if len(self._complete()) == self.config.workers and not self._started.done():
            self._started.set_result(None)
        self.queues.wake.set()

    def _failed(self, number: int, reason: str) -> None:
        """Count a start that failed; the first one of the server ends it."""
        self._failures += 1
        log.error("worker %d: %s", number, reason)
        if not self._started.done():
            self._started.set_exception(WeightsError(reason))
        if self._failures >= BROKEN and not self._complete():
            self.queues.close("the server has no worker that starts")

    def _free_worker(self) -> Worker | None:
        """Return the worker with the fewest batches, or `None` if all have enough."""
        worker = min(self._complete(), key=lambda worker: len(worker.batches), default=None)
        return worker if worker is not None and len(worker.batches) < IN_FLIGHT else None

    def _worker_with(self, key: str) -> Worker | None:
        """Return the worker with the fewest batches of those that have a model's version; an old one may be in few."""
        having = [worker for worker in self._complete() if key in worker.keys]
        having = having or [worker for worker in self.workers if key in worker.keys]
        return min(having, key=lambda worker: len(worker.batches), default=None)

    def _has_idle_worker(self) -> bool:
        return any(not worker.batches for worker in self._complete())

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
        served, items, _ = worker.batches.pop(message.number)
        self.queues.finish(served, items, message.answers, message.seconds)

    def _lose(self, worker: Worker) -> None:
        """Queue the images of a worker that died once more, each for a batch of its own; refuse what did so before."""
        worker.lost = True
        log.error("worker %d died", worker.number)
        for load in worker.loads.values():
            if not load.done():
                load.set_exception(
                    ConnectionError("a worker died while it loaded a model: too little memory, or a bug")
                )
        for served, items, _ in worker.batches.values():
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
            while self._free_worker() is None:
                self.queues.wake.clear()
                await self.queues.wake.wait()
            served, batch = await self.queues.next_batch(self._has_idle_worker)
            key = batch[0].key
            if self._free_worker() is None:  # it died while no batch was due
                served.queue.add(batch, first=True)
            elif (worker := self._worker_with(key)) is None:
                for item in batch:
                    settle(item, Failure(503, "the model was exchanged and its worker died; send the request again"))
            else:
                self._number += 1
                worker.batches[self._number] = served, batch, time.monotonic()
                worker.send(Run(self._number, key, tuple(item.job for item in batch)))


def _end(process: Any) -> None:
    """Wait for a process to end, and kill it if it does not."""
    process.join(2)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()
