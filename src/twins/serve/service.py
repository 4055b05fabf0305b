"""`Service`: what all protocols do with a request: find the model, read its images, wait for the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from twins.errors import few, nearest
from twins.serve.batching import Item
from twins.serve.bodies import Bodies
from twins.serve.config import ServeConfig
from twins.serve.errors import ClientLeftError, RequestError
from twins.serve.messages import Answer, Description, Failure, Job, Options
from twins.serve.queues import Queues, Served
from twins.tasks.table import facts_of

MASK_PIXELS = 16_000_000
"""Pixels of an image whose prediction holds a mask of its size for each of up to 100 objects, a byte a pixel."""
SHARED_PIXELS = 2_000_000
"""Pixels above which such an image gets a batch of its own."""


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

    def check_ready(self) -> None:
        """Raise RequestError, 503, while no worker can answer."""
        if not self.ready():
            raise RequestError(503, "the models are being loaded, or the server is stopping", {"Retry-After": "2"})

    def find(self, request: Request, name: str | None) -> tuple[Served, Description]:
        """Return a model by its name; without one, the only one.

        Raises:
            RequestError: 404 for an unknown name, 400 if several are served, 503 while they are loaded.
        """
        models = self.queues.models
        if name is None and len(models) > 1:
            raise RequestError(400, f"this server has several models; name one of {few(list(models))}")
        name = next(iter(models)) if name is None else name
        if name not in models:
            hint = nearest(name, models) or f"; the models are {few(list(models))}"
            raise RequestError(404, f"there is no model {name!r:.80}{hint}")
        self.check_ready()
        served = models[name]
        assert served.description is not None
        request.state.model = name
        return served, served.description

    async def predict(
        self, request: Request, served: Served, images: Sequence[bytes], options: Options
    ) -> tuple[str, list[bytes]]:
        """Return the model's name and version, and the answer for each encoded image.

        Raises:
            RequestError: one of the images cannot be predicted, or there is no answer in time.
        """
        headers = []
        for index, content in enumerate(images):
            with numbered(index, len(images)):
                description = _described(served)
                most = min(self.config.max_pixels, MASK_PIXELS) if description.masks else self.config.max_pixels
                headers.append(await self.bodies.header(content, description.info.preprocess, most))
        description = _described(served)  # from here to `submit` nothing else runs, so that the version is the same
        check_options(description, options)
        jobs = [
            Job(
                content=content,
                shape=header.shape,
                alone=options.form == "attention" or (description.masks and header.pixels > SHARED_PIXELS),
                options=options,
            )
            for content, header in zip(images, headers, strict=True)
        ]
        items = self.queues.submit(served, jobs)
        answers = await self.wait(request, items)
        return items[0].key, [answer for answer in answers if isinstance(answer, bytes)]

    async def wait(self, request: Request, items: Sequence[Item]) -> list[Answer]:
        """Return the answers of images; those of a client that leaves are removed from the queue.

        Raises:
            RequestError: an image has none, or there is none in time.
        """
        request.state.images = len(items)
        seconds = self.config.answer_seconds
        answers = await _before_disconnect(request, _gather(items), seconds)
        if answers is None:
            sentence = f"there was no answer within {seconds:g} seconds; try again later"
            raise RequestError(503, sentence, {"Retry-After": "5"})
        for index, answer in enumerate(answers):
            if isinstance(answer, Failure):
                with numbered(index, len(answers)):
                    raise RequestError(answer.status, answer.sentence)
        return answers


def _described(served: Served) -> Description:
    assert served.description is not None
    return served.description


async def _gather(items: Sequence[Item]) -> list[Answer]:
    try:
        return list(await asyncio.gather(*(item.answer for item in items)))
    finally:
        for item in items:
            item.answer.cancel()


@contextmanager
def numbered(index: int, count: int) -> Iterator[None]:
    """Put the number of an image in front of an error's sentence, if a request has several."""
    try:
        yield
    except RequestError as error:
        if count == 1:
            raise
        raise RequestError(error.status, f"image {index + 1}: {error.sentence}", error.headers) from error


async def _before_disconnect(
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
            raise ClientLeftError
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
    if options.form == "attention" and description.runtime != "pytorch":
        raise RequestError(422, "an exported file holds no maps; serve the run or checkpoint that it was made of")
    score, top = ("threshold", "top_k") if options.form == "hugging_face" else ("score", "top")
    fields = facts_of(description.info.task).prediction_fields
    for value, name, field in ((options.score, score, "scores"), (options.top, top, "labels")):
        if value is not None and field not in fields:
            raise RequestError(422, f"a network for {description.info.task} gives no {field}; leave out {name}")
    if options.score is not None and options.score < description.lowest_score:
        raise RequestError(
            422,
            f"the exported file holds objects with scores above {description.lowest_score:g}, found "
            f"{score}={options.score:g}; ask for fewer, or export the run again with another --score",
        )
