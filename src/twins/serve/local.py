"""`LocalDispatcher`: the models of a server in this process, for a replica of Ray Serve."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from twins.serve.config import ServeConfig
from twins.serve.messages import Answer, Job
from twins.serve.models import ServedModel
from twins.serve.queues import Queues
from twins.serve.worker import compute, decoded


class LocalDispatcher:
    """Runs batches in threads: some decode, one computes.

    Args:
        config: settings of the server; `workers` does not apply.
        queues: the models, and what waits for them.
    """

    def __init__(self, config: ServeConfig, queues: Queues) -> None:
        self.config, self.queues = config, queues
        self.ready = False
        self._models: dict[str, ServedModel] = {}
        self._decoders = ThreadPoolExecutor(config.worker_threads, thread_name_prefix="decode")
        self._computer = ThreadPoolExecutor(1, thread_name_prefix="compute")

    async def start(self) -> None:
        """Load the models, and begin to answer.

        Raises:
            TwinsError: a model cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._computer, self._load)
        self.ready = True
        self._task = asyncio.create_task(self._dispatch())

    def _load(self) -> None:
        torch.set_num_threads(self.config.worker_threads)
        for served in self.queues.models.values():
            model = ServedModel(served.source.path, device=self.config.device, threads=self.config.worker_threads)
            self._models[served.key], served.description = model, model.describe()

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            served, items = await self.queues.next_batch(lambda: True)
            jobs = tuple(item.job for item in items)
            answers, seconds = await loop.run_in_executor(self._computer, self._run, self._models[items[0].key], jobs)
            self.queues.finish(served, items, answers, seconds)

    def _run(self, model: ServedModel, jobs: tuple[Job, ...]) -> tuple[list[Answer], float]:
        """Return the answers of a batch, and the time of the network in seconds."""
        images = [decoded(future) for future in [self._decoders.submit(model.preprocess, job) for job in jobs]]
        start = time.perf_counter()
        return compute(model, jobs, images), time.perf_counter() - start
