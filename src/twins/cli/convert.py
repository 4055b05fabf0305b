"""`twins convert`: write a weight file in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from twins.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class ConvertArgs:
    """Write a weight file in another layout. All values stay bit-identical."""

    source: Annotated[str, Positional, arg(metavar="IN")]
    """File to read: .safetensors, .pth, .pt or .bin. Its layout is detected."""
    target: Annotated[str, Positional, arg(metavar="OUT")]
    """File to write: .safetensors, .pth, .pt or .bin."""
    to: Literal["twins", "timm", "reference"]
    """Layout of the file to write."""


ARGS = ConvertArgs


def run(arguments: list[str]) -> int:
    """Convert the file and print the layouts of both."""
    args = parse(ConvertArgs, "convert", arguments)
    from twins.weights.convert import convert

    source_layout = convert(args.source, args.target, to=args.to)
    print(f"{args.source} ({source_layout} layout) written as {args.target} ({args.to} layout)")
    return 0
