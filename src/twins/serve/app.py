"""The routes of the server's own protocol, and the application that all protocols share."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

import twins
from twins.data.classes import class_colours
from twins.errors import nearest
from twins.serve.errors import RequestError
from twins.serve.gate import error_body
from twins.serve.messages import AttentionOptions, Options
from twins.serve.metrics import Metrics
from twins.serve.openapi import ERRORS, IMAGE_BODY
from twins.serve.pages import CSP, PAGE_CSP, page_files, routes_page
from twins.serve.service import Service
from twins.tasks.table import facts_of


def create_app(service: Service, metrics: Metrics, *routers: APIRouter) -> FastAPI:
    """Return the application; its routes read `service` from `request.app.state`."""
    app = FastAPI(title="twins", version=twins.__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service, app.state.metrics = service, metrics
    for one in (router, *routers):
        app.include_router(one)
    app.state.routes = [route for one in (router, *routers) for route in one.routes]
    app.exception_handler(RequestError)(_refused)
    app.exception_handler(RequestValidationError)(_wrong_fields)
    app.exception_handler(HTTPException)(_no_route)
    app.exception_handler(Exception)(_failed)  # the gate logs it
    return app


router = APIRouter()


@router.post("/v1/predict", responses=ERRORS, openapi_extra={"requestBody": IMAGE_BODY})
async def predict(
    request: Request,
    model: Annotated[str | None, Query(description="Name of the model; needed if there are several.")] = None,
    score: Annotated[float | None, Query(ge=0, lt=1, description="Score that objects and classes must exceed.")] = None,
    top: Annotated[int | None, Query(ge=0, description="Most objects or classes, highest score first.")] = None,
    masks: Annotated[Literal["rle", "polygon", "none"] | None, Query(description="Form of the masks.")] = None,
) -> Response:
    """Predict one image, or each image of a form."""
    started = time.perf_counter()
    check_fields(request, ("model", "score", "top", "masks"))
    service: Service = request.app.state.service
    try:
        served, _ = service.find(request, model)
        images = await service.bodies.images(request)
        _, answers = await service.predict(request, served, images, Options(score=score, top=top, masks=masks))
    finally:
        service.bodies.release(request)
    name = json.dumps(served.source.name).encode()
    milliseconds = round(1000 * (time.perf_counter() - started), 2)
    body = b'{"model": %b, "predictions": [%b], "milliseconds": %g}' % (name, b", ".join(answers), milliseconds)
    return Response(body, media_type="application/json")


@router.post("/v1/attention", responses=ERRORS, openapi_extra={"requestBody": IMAGE_BODY})
async def attention(
    request: Request,
    model: Annotated[str | None, Query(description="Name of the model; needed if there are several.")] = None,
    x: Annotated[float | None, Query(allow_inf_nan=False, description="Point, in pixels from the left.")] = None,
    y: Annotated[float | None, Query(allow_inf_nan=False, description="Point, in pixels from the top.")] = None,
    stage: Annotated[int | None, Query(ge=1, description="Number of a stage; all without it.")] = None,
    block: Annotated[int | None, Query(ge=1, description="Number of a block in the stage.")] = None,
    head: Annotated[int | None, Query(ge=1, description="Number of a head; their average without it.")] = None,
) -> Response:
    """Show what the network looks at from a point of one image; without a point, also why it decides as it does."""
    started = time.perf_counter()
    check_fields(request, ("model", "x", "y", "stage", "block", "head"))
    if (x is None) != (y is None):
        raise RequestError(400, "a point has both x and y; give both, or neither")
    if stage is None and not (block is None and head is None):
        raise RequestError(400, "a block or head is one of a stage; give the stage too")
    point = None if x is None or y is None else (x, y)
    place = AttentionOptions(point=point, stage=stage, block=block, head=head)
    service: Service = request.app.state.service
    try:
        served, _ = service.find(request, model)
        images = await service.bodies.images(request)
        if len(images) != 1:
            raise RequestError(400, f"attention is that of one image, found {len(images)}; send several requests")
        _, (answer,) = await service.predict(request, served, images, Options(form="attention", attention=place))
    finally:
        service.bodies.release(request)
    name, fields = json.dumps(served.source.name).encode(), answer.removeprefix(b"{").removesuffix(b"}")
    milliseconds = round(1000 * (time.perf_counter() - started), 2)
    body = b'{"model": %b, %b, "milliseconds": %g}' % (name, fields, milliseconds)
    return Response(body, media_type="application/json")


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List the models."""
    served = request.app.state.service.queues.models.values()
    return {"models": [_describe(one) for one in served]}


def _describe(served: Any) -> dict[str, Any]:
    name = served.source.name
    examples = [f"/examples/{quote(name, safe='')}/{file}" for file in served.source.examples()]
    values: dict[str, Any] = {"name": name, "version": served.version, "ready": False, "examples": examples}
    if (description := served.description) is None:
        return values
    info = description.info
    fields = facts_of(info.task).prediction_fields
    return values | {
        "ready": True,
        "task": info.task,
        "model": info.model,
        "head": info.head,
        "names": list(info.names),
        "colours": class_colours(info.num_classes, info.colours, bright="boxes" in fields),
        "fields": fields,
        "num_classes": info.num_classes,
        "runtime": description.runtime,
        "precision": description.precision,
        "preprocess": info.preprocess.to_dict(),
        "lowest_score": description.lowest_score,
    }


@router.get("/examples/{model:path}/{file}", response_class=Response, responses=ERRORS)
async def example(request: Request, model: str, file: str) -> Response:
    """Return one of the example images that `/v1/models` lists."""
    served, _ = request.app.state.service.find(request, model)
    path: Path | None = served.source.examples().get(file)
    try:
        content = b"" if path is None else await asyncio.to_thread(path.read_bytes)
    except OSError:  # the run draws its report again
        content = b""
    if not content:
        raise RequestError(404, f"the model has no example {file!r:.80}; /v1/models lists them")
    kind = "image/png" if file.endswith(".png") else "image/jpeg"
    return Response(content, media_type=kind, headers={"X-Content-Type-Options": "nosniff"})


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "live"}


@router.get("/health/ready", responses={503: ERRORS[503]})
async def ready(request: Request) -> dict[str, str]:
    """Say whether a worker has loaded all models and answered an image."""
    request.app.state.service.check_ready()
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def prometheus(request: Request) -> Response:
    """Return counters and histograms for Prometheus."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(request.app.state.service.queues), media_type=metrics.content_type)


@router.get("/docs", response_class=Response, include_in_schema=False)
async def docs(request: Request) -> Response:
    """Show all routes, as a page without scripts."""
    page = routes_page(request.app.openapi())
    return Response(page, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": CSP})


@router.get("/", response_class=Response, include_in_schema=False)
async def page() -> Response:
    """Show the page on which models are tried."""
    return _page_file("index.html")


@router.get("/page/{name}", response_class=Response, include_in_schema=False)
async def page_file(name: str) -> Response:
    """Return a file of the page."""
    return _page_file(name)


def _page_file(name: str) -> Response:
    if name not in page_files():
        raise RequestError(404, f"the page has no file {name!r:.80}; see /")
    content, kind = page_files()[name]
    headers = {
        "Content-Security-Policy": PAGE_CSP,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, media_type=kind, headers=headers)


def check_fields(request: Request, known: tuple[str, ...]) -> None:
    """Raise RequestError, 400, for a query field that the route does not read, or that is given twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; the fields are {', '.join(known)}"
            raise RequestError(400, f"there is no field {name!r:.80}{hint}")
        if names.count(name) > 1:
            raise RequestError(400, f"the field {name} is given {names.count(name)} times; give it once")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return Response(error_body(error.sentence), error.status, error.headers, "application/json")


async def _wrong_fields(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:]) or "body"
    found = f", found {first['input']!r:.80}" if "input" in first else ""
    return Response(error_body(f"{name}: {first['msg']}{found}"), 400, media_type="application/json")


async def _failed(_: Request, error: Exception) -> Response:
    return Response(error_body("the server failed; its log says why"), 500, media_type="application/json")


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        matches = [route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE]
        headers["Allow"] = ", ".join(sorted({method for route in matches for method in route.methods}))
    sentences = {
        404: f"there is no route {request.url.path!r:.80}; see /docs",
        405: f"{request.method} is not for this route",
    }
    sentence = sentences.get(error.status_code, str(error.detail))
    return JSONResponse({"error": sentence}, error.status_code, headers)
