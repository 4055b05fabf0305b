"""An application of Ray Serve over the same models and routes, for more machines than one.

    RAY_USAGE_STATS_ENABLED=0 serve run twins.serve.ray:app models=/models/boxes max_replicas=4

Each replica loads the models and forms its own batches; Ray adds and removes replicas by the requests that wait.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when it is imported

from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from twins.errors import ConfigError, nearest
from twins.serve.app import create_app
from twins.serve.config import ServeConfig
from twins.serve.gate import Gate
from twins.serve.keys import Keys
from twins.serve.local import LocalDispatcher
from twins.serve.metrics import Metrics
from twins.serve.queues import Queues
from twins.serve.routes import ROUTERS
from twins.serve.service import Service
from twins.serve.sources import parse_models

SETTINGS = {field.name: str(field.type) for field in fields(ServeConfig)}


class Replica:
    """The routes of `twins serve` in a replica.

    Args:
        models: run folders, checkpoints, exported files or published names, as `twins serve` takes them; they must be
            readable on each machine.
        settings: of `ServeConfig`.
    """

    def __init__(self, models: list[str], settings: dict[str, Any]) -> None:
        self.config, metrics = ServeConfig(**settings), Metrics()
        self.queues = Queues(self.config, parse_models(models), metrics.batch)
        self.dispatcher = LocalDispatcher(self.config, self.queues)
        app = create_app(Service(self.config, self.queues, lambda: self.dispatcher.ready), metrics, *ROUTERS)
        keys = None if self.config.api_keys is None else Keys(self.config.api_keys)
        self.app = Gate(app, keys, metrics)
        self._starting = False

    async def check_health(self) -> None:
        """Load the models before the first request; Ray replaces a replica that raises an error."""
        if not self._starting:
            self._starting = True
            await self.dispatcher.start()

    async def __call__(self, request: Request) -> Response:
        """Answer one request as the server does."""
        await self.check_health()
        response = Response()
        body = bytearray()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.status_code, response.raw_headers = message["status"], list(message["headers"])
            else:
                body.extend(message.get("body", b""))

        await self.app(request.scope, request.receive, send)
        response.body = bytes(body)
        return response


def app(arguments: dict[str, Any]) -> serve.Application:
    """Build the application.

    Args:
        arguments: `models`, a list or names between commas; `min_replicas` (1), `max_replicas` (1) and `num_gpus` (0)
            of a replica; and settings of `ServeConfig`, such as `max_batch`.

    Raises:
        ConfigError: an argument is unknown or out of range.
    """
    arguments = dict(arguments)
    models = arguments.pop("models", [])
    models = models.split(",") if isinstance(models, str) else list(models)
    least, most = (int(arguments.pop(name, 1)) for name in ("min_replicas", "max_replicas"))
    gpus = float(arguments.pop("num_gpus", 0))
    settings = {name: _value(name, value) for name, value in arguments.items()}
    config = ServeConfig(**settings)
    parse_models(models)
    deployment = serve.deployment(
        name="twins",
        max_ongoing_requests=config.max_queue,
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": 2 * config.max_batch,
        },
        ray_actor_options={"num_cpus": config.worker_threads, "num_gpus": gpus},
        graceful_shutdown_timeout_s=config.grace,
        health_check_period_s=2,
    )(Replica)
    return deployment.bind(models, settings)


def _value(name: str, value: Any) -> Any:
    """Return a setting, which the command line of Ray gives as text."""
    if name not in SETTINGS:
        raise ConfigError(f"there is no argument {name!r}{nearest(name, SETTINGS) or '; see ServeConfig'}")
    if not isinstance(value, str) or "str" in SETTINGS[name]:
        return value
    if "bool" in SETTINGS[name]:
        return value.lower() in ("1", "true", "yes")
    return float(value) if "float" in SETTINGS[name] else int(value) if "int" in SETTINGS[name] else value
