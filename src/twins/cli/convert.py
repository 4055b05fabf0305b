"""`twins convert`: a weight file in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from twins.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class ConvertArgs:
    """Write a weight file of any known layout in another; every value is kept to the bit."""

    source: Annotated[str, Positional, arg(metavar="IN")]
    """File to read: .safetensors, .pth, .pt or .bin."""
    target: Annotated[str, Positional, arg(metavar="OUT")]
    """File to write; its ending chooses the format."""
    to: Literal["twins", "timm", "reference"]
    """Layout to write."""


ARGS = ConvertArgs


def run(arguments: list[str]) -> int:
    """Convert, and say what was found."""
    args = parse(ConvertArgs, "convert", arguments)
    from twins.weights.convert import convert

    found = convert(args.source, args.target, to=args.to)
    print(f"{args.source} ({found} layout) written as {args.target} ({args.to} layout)")
    return 0
