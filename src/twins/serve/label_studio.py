"""The routes of a machine learning backend of Label Studio: `/health`, `/setup`, `/versions` and `/predict`.

With several models the backend's address ends in `/models/NAME`: Label Studio appends the names of the routes to it.
Images come as `data:` addresses, or from the Label Studio that the server was started with; no other address is opened.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import logging
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from fastapi import APIRouter, Request

from twins.serve.answers import label_studio_kind
from twins.serve.bodies import parse_json
from twins.serve.downloads import Downloads
from twins.serve.errors import ClientLeftError, RequestError
from twins.serve.messages import Options
from twins.serve.openapi import ERRORS, json_body
from twins.serve.queues import Served
from twins.serve.service import Service

TAGS = {"choices": "Choices", "rectanglelabels": "RectangleLabels", "brushlabels": "BrushLabels"}
"""Tags of a labelling interface by the kind of a region."""
LONGEST_INTERFACE = 500_000
"""Characters of a labelling interface."""
MOST_TASKS = 10_000
"""Tasks in a request."""
OF_AN_IMAGE = (400, 413, 422)
"""Statuses of errors that an image has by itself; others, such as a full queue, are of the whole request."""

TASKS = json_body(
    "tasks", "label_config", tasks={"type": "array", "items": {"type": "object"}}, label_config={"type": "string"}
)
NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Name of a model."}

log = logging.getLogger("twins.serve")
router = APIRouter()


@dataclass(frozen=True)
class Control:
    """A tag of a labelling interface that takes labels, and the image that they are for."""

    name: str
    image: str
    """Name of the image's tag."""
    field: str
    """Field of a task's data that holds the image."""


@router.get("/health", responses={503: ERRORS[503]})
@router.get("/models/{name}/health", responses=ERRORS, openapi_extra={"parameters": [NAME]})
async def health(request: Request) -> dict[str, str]:
    """Say that the backend is up."""
    service: Service = request.app.state.service
    service.check_ready()
    if "name" in request.path_params:
        _find(service, request)
    return {"status": "UP", "model_class": "twins"}


@router.get("/versions", responses=ERRORS)
@router.get("/models/{name}/versions", responses=ERRORS, openapi_extra={"parameters": [NAME]})
async def versions(request: Request) -> dict[str, list[str]]:
    """Return the version of the model in a list."""
    return {"versions": [await _version(_find(request.app.state.service, request))]}


@router.post("/setup", responses=ERRORS, openapi_extra={"requestBody": json_body()})
@router.post("/models/{name}/setup", responses=ERRORS, openapi_extra={"requestBody": json_body(), "parameters": [NAME]})
async def setup(request: Request) -> dict[str, str]:
    """Return the version of the model."""
    service: Service = request.app.state.service
    try:
        await _json(service, request)
        return {"model_version": await _version(_find(service, request))}
    finally:
        service.bodies.release(request)


@router.post("/predict", responses=ERRORS, openapi_extra={"requestBody": TASKS})
@router.post("/models/{name}/predict", responses=ERRORS, openapi_extra={"requestBody": TASKS, "parameters": [NAME]})
async def predict(request: Request) -> dict[str, Any]:
    """Predict the images of tasks, any number; one whose image cannot be predicted gets an empty list.

    If none can be predicted, the error is that of the first.
    """
    service: Service = request.app.state.service
    try:
        values = await _json(service, request)
        served = _find(service, request)
        tasks, interface = values.get("tasks"), values.get("label_config")
        if not isinstance(tasks, list) or not isinstance(interface, str):
            raise RequestError(400, "the JSON must hold a list tasks and a text label_config")
        if len(tasks) > MOST_TASKS:
            raise RequestError(413, f"a request may have {MOST_TASKS:,} tasks, found {len(tasks):,}; send fewer")
        control = _control_for(served, await service.bodies.parse(controls_of, interface))
        results: list[dict[str, Any] | RequestError] = []
        version, downloads = await _version(served), Downloads(service.config)
        for start in range(0, len(tasks), service.config.max_images):
            if await request.is_disconnected():
                raise ClientLeftError
            some = tasks[start : start + service.config.max_images]
            results += await _predict_some(service, request, served, some, control, downloads)
    finally:
        service.bodies.release(request)
    errors = [result for result in results if isinstance(result, RequestError)]
    if errors and len(errors) == len(results):
        raise errors[0]
    for error in errors:
        log.warning("a task of Label Studio has no prediction: %s", error.sentence, extra={"model": served.source.name})
    answers: list[Any] = [[] if isinstance(result, RequestError) else result for result in results]
    return {"results": answers, "model_version": version}


def _find(service: Service, request: Request) -> Served:
    """Return the model that the address names, as `/models/NAME/...` or `?model=NAME`."""
    name = request.path_params.get("name", request.query_params.get("model"))
    return service.find(request, name)[0]


async def _version(served: Served, key: str | None = None) -> str:
    """Return the model's name and a hash of its files' content.

    Label Studio asks for no prediction of a version that a task has already, even of a server that has been started
    again with another file, whose versions count from 1 once more.

    Args:
        served: the model.
        key: of the version, if not the one in use.
    """
    key = key or served.key
    if key not in served.hashes and key == served.key:
        with contextlib.suppress(OSError):  # it has been replaced
            content = await asyncio.to_thread(served.source.content_hash, served.path)
            served.hashes[key] = f"{served.source.name}@{content}" if content else key
    return served.hashes.get(key, key)


async def _predict_some(
    service: Service, request: Request, served: Served, tasks: list[Any], control: Control, downloads: Downloads
) -> list[dict[str, Any] | RequestError]:
    """Return the prediction of each task, or why it has none; there are at most as many as images in a request."""
    results: list[dict[str, Any] | RequestError | bytes] = []
    results += await service.bodies.download(_images, tasks, control.field, downloads)
    indices = [index for index, result in enumerate(results) if isinstance(result, bytes)]
    images = [result for result in results if isinstance(result, bytes)]
    for index, found in zip(indices, await _answers(service, request, served, images), strict=True):
        if isinstance(found, RequestError):
            results[index] = found
        else:
            key, answer = found
            results[index] = _named(json.loads(answer), control, await _version(served, key))
    return [result for result in results if not isinstance(result, bytes)]


async def _answers(
    service: Service, request: Request, served: Served, images: list[bytes]
) -> list[tuple[str, bytes] | RequestError]:
    """Return the version's key and the answer for each image, or its error.

    If one of several images has an error, each is predicted alone.
    """
    if not images:
        return []
    try:
        key, answers = await service.predict(request, served, images, Options(form="label_studio"))
    except RequestError as error:
        if error.status not in OF_AN_IMAGE or isinstance(error, ClientLeftError):
            raise
        if len(images) == 1:
            return [error]
        return [answer for image in images for answer in await _answers(service, request, served, [image])]
    return [(key, answer) for answer in answers]


async def _json(service: Service, request: Request) -> dict[str, Any]:
    try:
        values = await service.bodies.parse(parse_json, await service.bodies.read(request))
    except ValueError as error:
        raise RequestError(400, "the body is no JSON") from error
    if not isinstance(values, dict):
        raise RequestError(400, "the JSON must be an object")
    return values


def controls_of(interface: str) -> dict[str, Control]:
    """Return the controls of a labelling interface by their tags.

    Raises:
        RequestError: 400 if it is no plain XML, 413 if it is too long, 422 if it has no control for predictions.
    """
    if len(interface) > LONGEST_INTERFACE:
        raise RequestError(413, f"label_config may have {LONGEST_INTERFACE:,} characters, found {len(interface):,}")
    if "<!" in interface.replace("<!--", ""):  # entities can become millions of elements
        raise RequestError(400, "label_config declares a document type or entities; leave them out")
    try:
        root = ElementTree.fromstring(interface)
    except (ElementTree.ParseError, ValueError) as error:
        raise RequestError(400, f"label_config is no XML ({error})") from error
    images = {tag.get("name", ""): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    controls: dict[str, Control] = {}
    for tag in root.iter():
        image = tag.get("toName", "")
        if tag.tag in TAGS.values() and images.get(image):
            controls.setdefault(tag.tag, Control(tag.get("name", ""), image, images[image]))
    if not controls:
        raise RequestError(422, f"label_config has none of {', '.join(TAGS.values())} for an Image; add one")
    return controls


def _control_for(served: Served, controls: dict[str, Control]) -> Control:
    """Return the control that takes a model's predictions.

    Raises:
        RequestError: 422 if the interface has no such tag.
    """
    assert served.description is not None
    tag = TAGS[label_studio_kind(served.description.info.task)]
    if tag not in controls:
        raise RequestError(422, f"this network's predictions need {tag} for an Image in label_config; add it")
    return controls[tag]


def _images(tasks: list[Any], field: str, downloads: Downloads) -> list[bytes | RequestError]:
    """Return the image of each task, or why it has none."""
    return [_image(task, field, downloads) for task in tasks]


def _image(task: Any, field: str, downloads: Downloads) -> bytes | RequestError:
    """Return the image of a task; an error with status 400 if it has none, 422 if it may not be fetched."""
    data = task.get("data") if isinstance(task, dict) else None
    address = data.get(field) if isinstance(data, dict) else None
    if not isinstance(address, str):
        return RequestError(400, f"a task must hold the address of its image as {field:.80}")
    try:
        if address[:5].lower() == "data:":
            return base64.b64decode(address.partition(",")[2], validate=True)
        return downloads.fetch(address)
    except RequestError as error:
        return error
    except (ValueError, binascii.Error):
        return RequestError(400, "the image of a task is no base64; send data:image/png;base64,... or an address")


def _named(answer: dict[str, Any], control: Control, version: str) -> dict[str, Any]:
    """Return an answer with the names of the interface's tags."""
    names = {"from_name": control.name, "to_name": control.image}
    regions = [region | names for region in answer["result"]]
    return {"result": regions, "score": answer["score"], "model_version": version}
