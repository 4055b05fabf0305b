"""The routes of a machine learning backend of Label Studio: `/health`, `/setup` and `/predict`.

Images come as `data:` addresses, or from the Label Studio that the server was started with; no other address is opened.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener
from urllib.request import Request as Download
from xml.etree import ElementTree

from fastapi import APIRouter, Request

from twins.serve.bodies import parse_json
from twins.serve.config import ServeConfig
from twins.serve.errors import RequestError
from twins.serve.messages import Options
from twins.serve.openapi import ERRORS, json_body
from twins.serve.service import Service

TOKEN = "LABEL_STUDIO_API_KEY"
TAGS = {"choices": "Choices", "rectanglelabels": "RectangleLabels", "brushlabels": "BrushLabels"}
"""Tags of a labelling interface by the kind of a region."""

TASKS = json_body(
    "tasks", "label_config", tasks={"type": "array", "items": {"type": "object"}}, label_config={"type": "string"}
)

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
async def health(request: Request) -> dict[str, str]:
    """Say that the backend is up."""
    request.app.state.service.check_ready()
    return {"status": "UP", "model_class": "twins"}


@router.post("/setup", responses=ERRORS, openapi_extra={"requestBody": json_body()})
async def setup(request: Request) -> dict[str, str]:
    """Return the version of the model."""
    service: Service = request.app.state.service
    try:
        await _json(service, request)
        served, _ = service.find(request, request.query_params.get("model"))
        return {"model_version": served.key}
    finally:
        service.bodies.release(request)


@router.post("/predict", responses=ERRORS, openapi_extra={"requestBody": TASKS})
async def predict(request: Request) -> dict[str, Any]:
    """Predict the images of tasks."""
    service: Service = request.app.state.service
    try:
        values = await _json(service, request)
        served, _ = service.find(request, request.query_params.get("model"))
        tasks, interface = values.get("tasks"), values.get("label_config")
        if not isinstance(tasks, list) or not isinstance(interface, str):
            raise RequestError(400, "the JSON must hold a list tasks and a text label_config")
        if len(tasks) > service.config.max_images:
            raise RequestError(413, f"a request may have {service.config.max_images} tasks, found {len(tasks)}")
        controls = controls_of(interface)
        fields = {control.field for control in controls.values()}
        contents = [await asyncio.to_thread(_image, task, fields, service.config) for task in tasks]
        version, answers = await service.predict(request, served, contents, Options(form="label_studio"))
    finally:
        service.bodies.release(request)
    results = [_named(json.loads(answer), controls, version) for answer in answers]
    return {"results": results, "model_version": version}


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
        RequestError: 400 if it is no XML, 422 if it has no control that predictions can fill.
    """
    try:
        root = ElementTree.fromstring(interface)
    except (ElementTree.ParseError, ValueError) as error:
        raise RequestError(400, f"label_config is no XML ({error})") from error
    images = {tag.get("name", ""): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    controls: dict[str, Control] = {}
    for tag in root.iter():
        image = tag.get("toName", "")
        if tag.tag in TAGS.values() and image in images:
            controls.setdefault(tag.tag, Control(tag.get("name", ""), image, images[image]))
    if not controls:
        raise RequestError(422, f"label_config has none of {', '.join(TAGS.values())} for an Image; add one")
    return controls


def _image(task: Any, fields: set[str], config: ServeConfig) -> bytes:
    """Return the image of a task; raises RequestError, 400, if it has none, 422 if it may not be fetched."""
    data = task.get("data") if isinstance(task, dict) else None
    addresses = [data[field] for field in fields if field in data] if isinstance(data, dict) else []
    if not addresses or not isinstance(addresses[0], str):
        raise RequestError(400, f"a task must hold the address of its image as {' or '.join(sorted(fields))}")
    if addresses[0].startswith("data:"):
        try:
            return base64.b64decode(addresses[0].partition(",")[2], validate=True)
        except (ValueError, binascii.Error) as error:
            raise RequestError(400, "the image of a task is no base64") from error
    return _fetch(addresses[0], config)


def _fetch(address: str, config: ServeConfig) -> bytes:
    """Return a file of the Label Studio that the server was started with."""
    base = config.label_studio
    try:
        found = quote(urljoin(base or "", address), safe="%/:=&?~#+!$,;'@()*[]")
        if base is None or urlsplit(found)[:2] != urlsplit(base)[:2]:
            raise RequestError(
                422, f"images are fetched from the server's --label-studio address alone, found {address!r:.80}"
            )
        token = os.environ.get(TOKEN, "")
        download = Download(found, headers={"Authorization": f"Token {token}"} if token else {})
        with build_opener(_NoRedirects).open(download, timeout=config.receive_seconds) as file:
            content: bytes = file.read(config.max_bytes + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise RequestError(422, f"the image {address!r:.80} cannot be fetched ({error})") from error
    if len(content) > config.max_bytes:
        raise RequestError(413, f"the image {address!r:.80} has more than {config.max_bytes:,} bytes")
    return content


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, which could lead elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Return no further request."""


def _named(answer: dict[str, Any], controls: dict[str, Control], version: str) -> dict[str, Any]:
    """Return an answer with the names of the interface's tags; without the tag for its kind it is empty."""
    control = controls.get(TAGS[answer["kind"]])
    names = {} if control is None else {"from_name": control.name, "to_name": control.image}
    regions = [] if control is None else [region | names for region in answer["result"]]
    return {"result": regions, "score": answer["score"] or 0.0, "model_version": version}
