"""The dispatcher with workers that are threads: starts that fail, and reloads while requests are answered."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import threading
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from twins.serve import dispatcher as module
from twins.serve.config import ServeConfig
from twins.serve.dispatcher import Dispatcher
from twins.serve.messages import Description, Done, Drop, Job, Load, Loaded, Options, Run, receive, send
from twins.serve.queues import Queues
from twins.serve.sources import parse_models
from twins.weights.info import ModelInfo

DESCRIPTION = Description(
    info=ModelInfo(task="classification", model="twins_svt_nano", num_classes=2),
    runtime="pytorch",
    precision="float32",
    pads=True,
    padding=0.0,
    masks=False,
    lowest_score=0.0,
    ranked=True,
    outputs=(),
)
JOB = Job(content=b"image", shape=(64, 64), options=Options())


class Workers:
    """Takes the place of `multiprocessing`: a worker answers an image with the text of its model's file."""

    def __init__(self) -> None:
        self.alive: list[Process] = []
        self.starts: list[float] = []
        self.fault = ""
        """How the next starts fail: `OSError`, `EOFError`, `dies` at once, or a model that it `refuses`."""
        self.started, self.answers = threading.Event(), threading.Event()
        for event in (self.started, self.answers):  # cleared to hold up starts or answers
            event.set()

    def set_forkserver_preload(self, _):
        pass

    def Process(self, *, args, **_):
        return Process(self, args[0])


class Process:
    """A worker."""

    pid = 0

    def __init__(self, workers: Workers, connection: socket.socket) -> None:
        self.workers, self.connection = workers, connection.dup()
        self.models: dict[str, bytes] = {}
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def start(self) -> None:
        self.workers.starts.append(time.monotonic())
        fault = self.workers.fault  # read once: the test may clear it meanwhile
        if fault.endswith("Error"):
            self.connection.close()
            raise {"OSError": OSError, "EOFError": EOFError}[fault]("no process can be started")
        assert self.workers.started.wait(20)
        self.thread.start()

    def serve(self) -> None:
        if self.workers.fault == "dies":
            self.connection.close()
            return
        self.workers.alive.append(self)
        runs, sending = [], threading.Lock()
        with suppress(OSError):
            while (message := receive(self.connection)) is not None:
                match message:
                    case Load(key, path) if self.workers.fault == "refuses":
                        send(self.connection, Loaded(key, None, f"{path} cannot be used"))
                    case Load(key, path):
                        time.sleep(0.005)
                        self.models[key] = Path(path).read_bytes()
                        with sending:
                            send(self.connection, Loaded(key, DESCRIPTION))
                    case Drop(key):
                        self.models.pop(key, None)
                    case Run(number, key, jobs):
                        answers = (self.models[key],) * len(jobs)
                        runs.append(threading.Thread(target=self.answer, args=(sending, Done(number, answers, 0.001))))
                        runs[-1].start()
        self.workers.alive.remove(self)

    def answer(self, sending: threading.Lock, done: Done) -> None:
        assert self.workers.answers.wait(20)
        with sending, suppress(OSError):
            send(self.connection, done)

    def kill(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def join(self, timeout=None) -> None:
        if self.thread.ident:
            self.thread.join(timeout)

    def is_alive(self) -> bool:
        return self.thread.is_alive()

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def workers(monkeypatch):
    workers = Workers()
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda _: workers)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module.os, "kill", lambda *_: None)  # a fault of the dispatcher ends the process
    return workers


@asynccontextmanager
async def started(folder, *names, **settings):
    """A dispatcher with two workers and a model of each name, whose file holds `NAME 1`."""
    for name in names:
        (folder / f"{name}.safetensors").write_text(f"{name} 1")
    config = ServeConfig(workers=2, threads=1, reload_seconds=0, **settings)
    queues = Queues(config, parse_models([f"{name}={folder / name}.safetensors" for name in names]))
    dispatcher = Dispatcher(config, queues)
    try:
        await asyncio.wait_for(dispatcher.start(), 20)
        yield dispatcher
    finally:
        await dispatcher.stop()
    assert dispatcher.fault is None


def submit(dispatcher, name="a", images=1):
    """The answers of the images of a request, to be awaited."""
    items = dispatcher.queues.submit(dispatcher.models[name], [JOB] * images)
    return asyncio.gather(*(item.answer for item in items))


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("fault", ["OSError", "EOFError", "dies", "refuses"])
def test_while_a_worker_cannot_start_another_answers_and_it_is_back_once_it_can(workers, tmp_path, fault):
    async def run() -> None:
        async with started(tmp_path, "a") as dispatcher:
            before = len(workers.starts)
            workers.fault = fault
            workers.alive[0].kill()
            while len(workers.starts) < before + 5:
                assert await submit(dispatcher, images=2) == [b"a 1"] * 2
                assert dispatcher.ready
                await asyncio.sleep(0.001)
            assert dispatcher.live_workers == 1
            pauses = [later - start for start, later in itertools.pairwise(workers.starts[before:])]
            assert all(pause >= 0.01 * 2**number for number, pause in enumerate(pauses, 1))  # each twice the last
            workers.fault = ""
            await until(lambda: dispatcher.live_workers == 2)
            workers.alive[0].kill()  # the one that was healthy; the other answers
            assert await submit(dispatcher) == [b"a 1"]
            await until(lambda: dispatcher.live_workers == 2)

    asyncio.run(run())


def test_a_start_may_fail_any_number_of_times(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.0)

    async def run() -> None:
        async with started(tmp_path, "a") as dispatcher:
            workers.fault, dispatcher._failures = "OSError", 2000  # the pause doubled so often is no float any more
            workers.alive[0].kill()
            before = len(workers.starts)
            await until(lambda: len(workers.starts) > before + 3)
            assert await submit(dispatcher) == [b"a 1"]
            workers.fault = ""
            await until(lambda: dispatcher.live_workers == 2)

    asyncio.run(run())


def test_two_models_that_are_reloaded_at_once_both_switch_and_no_request_fails(workers, tmp_path):
    async def run() -> dict[str, list[list[bytes]]]:
        answers: dict[str, list[list[bytes]]] = {"a": [], "b": []}
        async with started(tmp_path, *answers, max_batch=3) as dispatcher:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, dispatcher.reload_all)

            async def ask(name: str) -> None:
                while not answers[name] or answers[name][-1][0] != f"{name} 2".encode():
                    answers[name].append(await submit(dispatcher, name, images=4))  # more than a batch

            for name in answers:
                assert await submit(dispatcher, name) == [f"{name} 1".encode()]
                (tmp_path / f"{name}.safetensors").write_text(f"{name} 2")
            asks = [asyncio.create_task(ask(name)) for name in answers for _ in range(3)]
            signal.raise_signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                await asyncio.gather(*asks)
            assert [served.version for served in dispatcher.models.values()] == [2, 2]
            await until(lambda: all(process.models.keys() == {"a@2", "b@2"} for process in workers.alive))
            assert (dispatcher.live_workers, dispatcher.restarts) == (2, 0)
        return answers

    for name, found in asyncio.run(run()).items():
        old, new = f"{name} 1".encode(), f"{name} 2".encode()
        assert {tuple(one) for one in found} == {(old,) * 4, (new,) * 4}  # a request's images get one version


def test_images_of_an_old_version_are_answered_though_a_new_worker_has_never_had_it(workers, tmp_path):
    async def run() -> None:
        async with started(tmp_path, "a", max_batch=1) as dispatcher:
            workers.answers.clear()
            old = submit(dispatcher, images=6)  # two batches for each worker, and two images that wait
            await until(lambda: len(dispatcher.models["a"].queue) == 2)
            workers.started.clear()
            workers.alive[1].kill()
            await until(lambda: len(workers.starts) == 3)
            (tmp_path / "a.safetensors").write_text("a 2")
            await dispatcher.reload("a")  # with the worker that is left
            workers.started.set()
            await until(lambda: dispatcher.live_workers == 2)
            new = submit(dispatcher)
            workers.answers.set()
            assert await asyncio.wait_for(old, 20) == [b"a 1"] * 6
            assert await asyncio.wait_for(new, 20) == [b"a 2"]

    asyncio.run(run())
