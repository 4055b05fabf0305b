"""`twins serve`: answer predictions over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from twins.cli.parse import parse
from twins.errors import MissingExtraError
from twins.serve.config import ServeConfig


@dataclass(frozen=True, kw_only=True)
class ServeArgs:
    """Answer predictions over HTTP: `POST /v1/predict` with an image returns its prediction as JSON."""

    models: Annotated[tuple[str, ...], Positional, arg(metavar="MODEL...")]
    """Run folders, checkpoints, exported files or published names; `NAME=MODEL` gives one another name."""
    config: Annotated[ServeConfig, arg(name="")] = field(default_factory=ServeConfig)
    """Address, batches, limits and life of the server."""


ARGS = ServeArgs


def run(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    args = parse(ServeArgs, "serve", arguments)
    from twins.serve.sources import parse_models

    sources = parse_models(args.models)
    try:
        from twins.serve.server import serve
    except ImportError as error:
        raise MissingExtraError(f"the server needs {error.name}; pip install 'twins-vision[serve]'") from error
    serve(sources, args.config)
    return 0
