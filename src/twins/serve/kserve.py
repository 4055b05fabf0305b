"""KServe's Open Inference Protocol v2 over HTTP, with tensors in JSON or binary behind it.

The tensors are those of an exported file: `images`, uint8 `(B, H, W, C)` at the size that the network sees, optionally
`sizes`; outputs decoded and selected as published.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

import twins
from twins.exporting.metadata import IMAGES, SIZES, SMALLEST
from twins.serve.bodies import parse_json
from twins.serve.errors import RequestError
from twins.serve.messages import Description, Job, Options
from twins.serve.openapi import ERRORS, json_body
from twins.serve.service import Service

HEADER = "Inference-Header-Content-Length"
TYPES = {"UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}
OPTIONS = Options(form="tensors")
INPUTS = {IMAGES: "UINT8", SIZES: "INT64"}
LARGEST = 1 << 16
"""Largest number in the JSON of an input: pixels have up to 255, sizes up to a side of an image."""

TENSORS = json_body("inputs", inputs={"type": "array", "items": {"type": "object"}})

router = APIRouter(prefix="/v2")


@router.get("")
async def server() -> dict[str, Any]:
    """Describe the server."""
    return {"name": "twins", "version": twins.__version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Say that the process answers."""
    return {"live": True}


@router.get("/health/ready", responses={503: ERRORS[503]})
async def ready(request: Request) -> dict[str, bool]:
    """Say whether a worker has loaded all models."""
    request.app.state.service.check_ready()
    return {"ready": True}


@router.get("/models/{name}", responses=ERRORS)
@router.get("/models/{name}/versions/{version}", responses=ERRORS)
async def metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Describe the inputs and outputs of a model."""
    served, description = request.app.state.service.find(request, name)
    _check_version(served.version, version)
    sides = [description.batch or -1, description.height or -1, description.width or -1]
    inputs = [{"name": IMAGES, "datatype": "UINT8", "shape": [*sides, description.info.in_chans]}]
    if description.pads:
        inputs.append({"name": SIZES, "datatype": "INT64", "shape": [sides[0], 2]})
    outputs = [{"name": name, "datatype": kind, "shape": list(shape)} for name, kind, shape in description.outputs]
    platform = f"{description.runtime}_twins"
    return {"name": name, "versions": [str(served.version)], "platform": platform, "inputs": inputs, "outputs": outputs}


@router.get("/models/{name}/ready", responses=ERRORS)
@router.get("/models/{name}/versions/{version}/ready", responses=ERRORS)
async def model_ready(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Say whether a model can answer."""
    served, _ = request.app.state.service.find(request, name)
    _check_version(served.version, version)
    return {"name": name, "ready": True}


@router.post("/models/{name}/infer", responses=ERRORS, openapi_extra={"requestBody": TENSORS})
@router.post("/models/{name}/versions/{version}/infer", responses=ERRORS, openapi_extra={"requestBody": TENSORS})
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Run a model on tensors."""
    service: Service = request.app.state.service
    try:
        served, _ = service.find(request, name)
        _check_version(served.version, version)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(415, "compressed bodies are not read; send the tensors as they are")
        body = await service.bodies.read(request)
        values, tensors = await service.bodies.parse(parse, body, request.headers.get(HEADER))
        served, description = service.find(request, name)  # from here to `submit` the version is the same
        jobs = jobs_of(tensors, description, service.config.max_images, service.config.max_pixels)
        items = service.queues.submit(served, jobs)
        answers = await service.wait(request, items)
    finally:
        service.bodies.release(request)
    rows = [answer for answer in answers if isinstance(answer, dict)]
    outputs = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    return await service.bodies.parse(respond, values, name, items[0].key.rpartition("@")[2], outputs)


def parse(body: bytes, header: str | None) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the JSON of a request, and its tensors by name.

    Raises:
        RequestError: 400 for anything that the protocol does not allow.
    """
    try:
        length = len(body) if header is None else int(header)
        if not 0 <= length <= len(body):
            raise ValueError(f"{HEADER} is {header:.40}, the body has {len(body):,} bytes")
        values = parse_json(body[:length])
        tensors, position = {}, length
        for entry in values["inputs"]:
            count = (entry.get("parameters") or {}).get("binary_data_size")
            data = None if count is None else body[position : position + _whole(count)]
            position += 0 if data is None else len(data)
            tensors[str(entry["name"])] = _tensor(entry, data)
        if position != len(body):
            raise ValueError(f"{len(body) - position:,} bytes are left behind the tensors")
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise RequestError(400, f"the request is no inference request of the protocol v2 ({reason:.200})") from error
    return values, tensors


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no whole number from 0")
    return value


def _tensor(entry: dict[str, Any], data: bytes | None) -> NDArray[Any]:
    name, kind = entry["name"], entry["datatype"]
    if name not in INPUTS:
        raise ValueError(f"there is no input {name!r:.40}, the inputs are {' and '.join(INPUTS)}")
    if kind != INPUTS[name]:
        raise ValueError(f"{name} must be {INPUTS[name]}, found {kind!r:.40}")
    shape = [_whole(side) for side in entry["shape"]]
    if data is not None:
        return np.frombuffer(data, dtype=TYPES[kind]).reshape(shape)
    array = np.array(entry["data"])
    if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() <= LARGEST):
        raise ValueError(f"the data of {name} must be whole numbers")
    if kind == "UINT8" and array.size and array.max() > 255:
        raise ValueError(f"the data of {name} must be at most 255")
    return array.astype(TYPES[kind]).reshape(shape)


def jobs_of(tensors: dict[str, NDArray[Any]], description: Description, most: int, max_pixels: int) -> list[Job]:
    """Return a job for each image of a batch.

    Raises:
        RequestError: 400 for tensors that the model does not take, 413 for too many images or pixels.
    """
    images, sizes = tensors.get(IMAGES), tensors.get(SIZES)
    channels = description.info.in_chans
    if images is None or images.ndim != 4 or images.shape[3] != channels or not len(images):
        found = "none" if images is None else str(list(images.shape))
        raise RequestError(400, f"{IMAGES} must have the shape [B, H, W, {channels}], found {found}")
    count, height, width = images.shape[:3]
    if count > most:
        raise RequestError(413, f"a request may have {most} images, found {count}; send several requests")
    if height * width > max_pixels:
        raise RequestError(413, f"an image may have {max_pixels:,} pixels, found {width} x {height}; send smaller ones")
    for name, side, expected in (("height", height, description.height), ("width", width, description.width)):
        if side < SMALLEST or (expected and side != expected):
            raise RequestError(
                400, f"the {name} of {IMAGES} must be {expected or f'at least {SMALLEST}'}, found {side}"
            )
    if sizes is None:
        return [Job(content=image, shape=(height, width), options=OPTIONS) for image in images]
    if not description.pads:
        raise RequestError(400, f"the model takes no {SIZES}; send images of one size, or export it with --padded")
    if sizes.shape != (count, 2) or (sizes < SMALLEST).any() or (sizes > (height, width)).any():
        raise RequestError(400, f"{SIZES} must be [B, 2], heights and widths from {SMALLEST} to those of {IMAGES}")
    rows = zip(images, sizes.tolist(), strict=True)
    return [Job(content=image, shape=(height, width), size=(size[0], size[1]), options=OPTIONS) for image, size in rows]


def respond(values: dict[str, Any], name: str, version: str, outputs: dict[str, NDArray[Any]]) -> Response:
    """Return the outputs that a request asks for, each in JSON or binary behind it.

    Raises:
        RequestError: 400 for an output that there is not.
    """
    try:
        whole = bool((values.get("parameters") or {}).get("binary_data_output", False))
        asked = [
            (one["name"], (one.get("parameters") or {}).get("binary_data", whole))
            for one in values.get("outputs") or []
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(400, "outputs must be a list of objects with a name") from error
    names = [key for key, _ in asked]
    if not all(isinstance(key, str) for key in names) or len(set(names)) != len(names):
        raise RequestError(400, "outputs must have names, each once")
    entries, tail = [], []
    for key, binary in asked or [(key, whole) for key in outputs]:
        if key not in outputs:
            raise RequestError(400, f"there is no output {key!r:.80}; the outputs are {', '.join(outputs)}")
        array = outputs[key]
        kind = next(kind for kind, dtype in TYPES.items() if array.dtype == dtype)
        entry: dict[str, Any] = {"name": key, "datatype": kind, "shape": list(array.shape)}
        if binary:
            tail.append(np.ascontiguousarray(array).tobytes())
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    head = {"model_name": name, "model_version": version, "outputs": entries}
    if isinstance(values.get("id"), str):
        head["id"] = values["id"]
    text = json.dumps(head).encode()
    if not tail:
        return Response(text, media_type="application/json")
    return Response(b"".join([text, *tail]), headers={HEADER: str(len(text))}, media_type="application/octet-stream")


def _check_version(found: int, asked: str | None) -> None:
    if asked not in (None, "", str(found)):
        raise RequestError(404, f"there is no version {asked!r:.40}; version {found} is served")
