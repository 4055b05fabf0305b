"""`Service`: what all protocols do with a request: find the model, read its images, wait for the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request

from twins.errors import few, nearest
from twins.serve.bodies import Bodies, read_header
from twins.serve.config import ServeConfig
from twins.serve.errors import RequestError
from twins.serve.messages import Answer, Description, Failure, Job, Options
from twins.serve.queues import Queues, Served
from twins.tasks.table import facts_of


class Service:
    """The models of a server, behind its limits.

    Args:
        config: settings of the server.
        queues: the models, and what waits for them.
        ready: whether the models can answer.
    """

    def __init__(self, config: ServeConfig, queues: Queues, ready: Callable[[], bool]) -> None:
        self.config, self.queues, self.ready = config, queues, ready
        self.bodies = Bodies(config)
        self._headers = ThreadPoolExecutor(2, thread_name_prefix="header")

    def find(self, request: Request, name: str | None) -> tuple[Served, Description]:
        """Return a model by its name; without one, the only one.

        Raises:
            RequestError: 404 for an unknown name, 400 if several are served, 503 while it is loaded.
        """
        models = self.queues.models
        if name is None and len(models) > 1:
            raise RequestError(400, f"this server has several models; add model=NAME, one of {few(list(models))}")
        name = next(iter(models)) if name is None else name
        if name not in models:
            hint = nearest(name, models) or f"; the models are {few(list(models))}"
            raise RequestError(404, f"there is no model {name!r:.80}{hint}")
        served = models[name]
        if served.description is None or not self.ready():
            raise RequestError(503, f"{name} is being loaded; try again later", {"Retry-After": "2"})
        request.state.model = name
        return served, served.description

    async def predict(
        self, request: Request, name: str | None, images: Sequence[bytes], options: Options
    ) -> list[bytes]:
        """Return the answer for each encoded image.

        Raises:
            RequestError: one of the images cannot be predicted, or there is no answer in time.
        """
        served, description = self.find(request, name)
        check_options(description, options)
        loop = asyncio.get_running_loop()
        preprocess, most = description.info.preprocess, self.config.max_pixels
        jobs = []
        for i, content in enumerate(images):
            with named(i, len(images)):
                shape = await loop.run_in_executor(self._headers, read_header, content, preprocess, most)
            jobs.append((Job(content=content, options=options), shape))
        answers = await self.answer(request, served, jobs)
        for i, answer in enumerate(answers):
            if isinstance(answer, Failure):
                with named(i, len(answers)):
                    raise RequestError(answer.status, answer.sentence)
        return [answer for answer in answers if isinstance(answer, bytes)]

    async def answer(
        self, request: Request, served: Served, jobs: Sequence[tuple[Job, tuple[int, int]]]
    ) -> list[Answer]:
        """Return the answer for each job; those of a client that leaves are removed from the queue.

        Raises:
            RequestError: 429 or 503, see `Queues.answer`; 503 if there is no answer in time.
        """
        request.state.images = len(jobs)
        seconds = self.config.answer_seconds
        answers = await before_disconnect(request, self.queues.answer(served.source.name, jobs), seconds)
        if answers is None:
            raise RequestError(
                503, f"there was no answer within {seconds:g} seconds; try again later", {"Retry-After": "5"}
            )
        return answers


class named:
    """Puts the number of an image in front of the sentence of an error, if a request has several."""

    def __init__(self, index: int, count: int) -> None:
        self.prefix = f"image {index + 1}: " if count > 1 else ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, RequestError) and self.prefix:
            raise RequestError(error.status, self.prefix + error.sentence, error.headers) from error


async def before_disconnect(
    request: Request, coroutine: Coroutine[Any, Any, list[Answer]], seconds: float
) -> list[Answer] | None:
    """Return what a coroutine returns, or `None` if it takes too long.

    Raises:
        RequestError: the client left, and nobody reads the answer.
    """
    answers, left = asyncio.ensure_future(coroutine), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((answers, left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answers.done():
            return answers.result()
        if left.done():
            raise RequestError(400, "the client left before its answer")
        return None
    finally:
        answers.cancel()
        left.cancel()
        await asyncio.gather(answers, left, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    """Return when the client has closed the connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def check_options(description: Description, options: Options) -> None:
    """Raise RequestError, 422, for what a model cannot do."""
    fields = facts_of(description.info.task).prediction_fields
    for name, field in (("score", "scores"), ("top", "labels")):
        if getattr(options, name) is not None and field not in fields:
            raise RequestError(422, f"a network for {description.info.task} gives no {field}; leave out {name}")
    if options.score is not None and options.score < description.lowest_score:
        raise RequestError(
            422,
            f"the exported file holds objects with scores above {description.lowest_score:g}, found "
            f"score={options.score:g}; ask for fewer, or export the run again with another --score",
        )
