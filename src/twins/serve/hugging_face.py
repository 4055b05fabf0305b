"""Hugging Face's schema of tasks: image classification, object detection and image segmentation over `POST /`.

`huggingface_hub.InferenceClient(model=ADDRESS)` sends an image as the body, or in base64 inside JSON together with
parameters. With several models the address ends in `/models/NAME`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from fastapi import APIRouter, Request, Response

from twins.serve.bodies import parse_json
from twins.serve.errors import RequestError
from twins.serve.messages import Options
from twins.serve.openapi import ERRORS, IMAGE_BODY, json_body
from twins.serve.service import Service

PARAMETERS = {"top_k": "top", "threshold": "score"}
"""Our options by the names of the schema."""
MOST = 5
"""Classes without `top_k`, as in the schema's reference implementation."""

_FIELDS = {"top_k": {"type": "integer", "minimum": 1}, "threshold": {"type": "number", "minimum": 0}}
_PARAMETERS = {"type": "object", "properties": _FIELDS, "additionalProperties": False}
_JSON = json_body("inputs", inputs={"type": "string", "format": "byte"}, parameters=_PARAMETERS)
_BINARY = {kind: schema for kind, schema in IMAGE_BODY["content"].items() if kind != "multipart/form-data"}
BODY = {"requestBody": {"required": True, "content": _BINARY | _JSON["content"]}}

router = APIRouter()


@router.post("/", responses=ERRORS, openapi_extra=BODY)
@router.post("/models/{name}", responses=ERRORS, openapi_extra=BODY)
async def infer(request: Request, name: str | None = None) -> Response:
    """Predict one image for Hugging Face's client."""
    service: Service = request.app.state.service
    try:
        served, description = service.find(request, name)
        body = await service.bodies.read(request)
        image, parameters = await service.bodies.parse(parse, body, request.headers.get("content-type", ""))
        options = options_of(parameters, ranked=description.ranked)
        _, (answer,) = await service.predict(request, served, [image], options)
    finally:
        service.bodies.release(request)
    return Response(answer, media_type="application/json")


def parse(body: bytes, kind: str) -> tuple[bytes, dict[str, Any]]:
    """Return the image of a body, and the parameters beside it.

    Raises:
        RequestError: 400 for JSON of another shape.
    """
    if not kind.startswith("application/json"):
        return body, {}
    try:
        values = parse_json(body)
        parameters = values.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise TypeError
        return base64.b64decode(values["inputs"], validate=True), parameters
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise RequestError(
            400, "the JSON must hold the image in base64 as inputs, and may hold an object parameters"
        ) from error


def options_of(parameters: dict[str, Any], *, ranked: bool) -> Options:
    """Return the options of a request.

    Args:
        parameters: of the schema.
        ranked: whether the answer is a list of classes, of which five are the default.

    Raises:
        RequestError: 422 for a parameter that has no meaning here, 400 for a wrong value.
    """
    if unknown := [name for name in parameters if name not in PARAMETERS and parameters[name] is not None]:
        raise RequestError(422, f"the parameter {unknown[0]!r:.80} is not supported; use {' and '.join(PARAMETERS)}")
    top, score = parameters.get("top_k"), parameters.get("threshold")
    if top is not None and (type(top) is not int or top < 1):
        raise RequestError(400, f"top_k must be a whole number from 1, found {top!r:.80}")
    if score is not None and (type(score) not in (int, float) or not 0 <= score < 1):
        raise RequestError(400, f"threshold must be at least 0 and below 1, found {score!r:.80}")
    return Options(form="hugging_face", top=MOST if top is None and ranked else top, score=score)
