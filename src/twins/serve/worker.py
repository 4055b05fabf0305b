"""The worker process: decodes images in threads, and runs the network in one of its own."""

from __future__ import annotations

import queue
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from twins.errors import TwinsError
from twins.serve.messages import Answer, Done, Drop, Failure, Job, Load, Loaded, Run, WorkerSettings, receive, send
from twins.serve.models import ServedModel

Image = tuple[torch.Tensor, tuple[int, int]]


def main(connection: socket.socket, settings: WorkerSettings) -> None:
    """Answer messages until the server closes the connection; signals are the server's to handle."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Worker(connection, settings).serve()


class Worker:
    """The models of a process and its threads: one reads messages, one computes, some decode.

    Args:
        connection: to the server.
        settings: device and threads.
    """

    def __init__(self, connection: socket.socket, settings: WorkerSettings) -> None:
        self.connection, self.settings = connection, settings
        self.models: dict[str, ServedModel] = {}
        self.decoders = ThreadPoolExecutor(settings.threads, thread_name_prefix="decode")
        self.batches = queue.SimpleQueue[tuple[Run, ServedModel, list[Future[Image]] | None]]()
        self._sending = threading.Lock()

    def serve(self) -> None:
        """Read messages; each that needs time is left to another thread."""
        torch.set_num_threads(self.settings.threads)
        threading.Thread(target=self._compute, name="compute", daemon=True).start()
        while (message := receive(self.connection)) is not None:
            match message:
                case Load():
                    threading.Thread(target=self._load, args=(message,), name="load", daemon=True).start()
                case Drop(key):
                    self.models.pop(key, None)
                case Run():
                    model = self.models[message.key]
                    # threads of a network that wait for one another lose more by decoding beside them than it saves
                    beside = self.settings.threads == 1 or model.predictor.device.type != "cpu"
                    self.batches.put((message, model, self._decode(message, model) if beside else None))
        self.decoders.shutdown(wait=False, cancel_futures=True)

    def _decode(self, message: Run, model: ServedModel) -> list[Future[Image]]:
        """Begin to decode the images of a batch."""
        return [self.decoders.submit(model.preprocess, job) for job in message.jobs]

    def _load(self, message: Load) -> None:
        torch.set_num_threads(self.settings.threads)
        try:
            model = ServedModel(message.path, device=self.settings.device, threads=self.settings.threads)
            self.models[message.key] = model
            loaded = Loaded(message.key, model.describe())
        except TwinsError as error:
            loaded = Loaded(message.key, None, str(error))
        except Exception as error:
            traceback.print_exc()
            loaded = Loaded(message.key, None, f"{message.path} cannot be used ({type(error).__name__}: {error})")
        self._send(loaded)

    def _compute(self) -> None:
        torch.set_num_threads(self.settings.threads)
        while True:
            message, model, futures = self.batches.get()
            images = [decoded(future) for future in futures or self._decode(message, model)]
            start = time.perf_counter()
            answers = compute(model, message.jobs, images)
            self._send(Done(message.number, tuple(answers), time.perf_counter() - start))

    def _send(self, message: Any) -> None:
        with self._sending:
            try:
                send(self.connection, message)
            except OSError:  # the server is gone; the reading thread ends the process
                return


def compute(model: ServedModel, jobs: tuple[Job, ...], images: list[Image | Failure]) -> list[Answer]:
    """Return an answer for each job; where a batch fails, its images are predicted one by one.

    Args:
        model: predicts.
        jobs: those of one batch: all files, or all pixels.
        images: the job's decoded image, or why there is none.
    """
    answers: dict[int, Answer] = {i: image for i, image in enumerate(images) if isinstance(image, Failure)}
    rest = {i: image for i, image in enumerate(images) if not isinstance(image, Failure)}
    if rest:
        answers |= zip(rest, _predict(model, [jobs[i] for i in rest], list(rest.values())), strict=True)
    return [answers[i] for i in range(len(jobs))]


def _predict(model: ServedModel, jobs: list[Job], images: list[Image]) -> list[Answer]:
    try:
        if jobs[0].options.form == "tensors":
            return model.tensors(images, jobs)
        if jobs[0].options.form == "attention":
            return [model.attention(image, job.options) for image, job in zip(images, jobs, strict=True)]
        return model.predict(images, [job.options for job in jobs])
    except Exception as error:
        if len(jobs) > 1:
            return [
                answer for job, image in zip(jobs, images, strict=True) for answer in _predict(model, [job], [image])
            ]
        return [_failure(error)]


def decoded(future: Future[Image]) -> Image | Failure:
    """Return a decoded image, or why there is none."""
    error = future.exception()  # not raised: its frames would keep the image until Python collects cycles
    if error is None:
        return future.result()
    return Failure(400, str(error)) if isinstance(error, TwinsError) else _failure(error)


def _failure(error: BaseException) -> Failure:
    """Return the failure of one image: by what it is, or a fault of the model or of this program."""
    without_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # PyTorch's, on a CPU
    if without_memory or isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return Failure(413, "the image needs more memory than the server has; send a smaller one")
    if isinstance(error, TwinsError):
        return Failure(422, str(error))
    traceback.print_exception(error, file=sys.stderr)
    return Failure(500, "the server failed to predict the image; its log says why")
