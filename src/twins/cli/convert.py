"""`twins convert`: write a weight file in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from twins.cli.parse import in_flags, parse


@dataclass(frozen=True, kw_only=True)
class ConvertArgs:
    """Write a weight file in another layout. All values stay bit-identical."""

    source: Annotated[str, Positional, arg(metavar="IN")]
    """File to read: .safetensors, .pth, .pt or .bin. Its layout is detected. Or a run folder, for its best weights."""
    target: Annotated[str, Positional, arg(metavar="OUT")]
    """File to write: .safetensors, .pth, .pt or .bin; its ending chooses the format."""
    to: Literal["twins", "timm", "reference"]
    """Layout of the file to write."""
    weights_key: Annotated[str | None, arg(metavar="KEY")] = None
    """Where the network stands in a file that holds several, such as `teacher`; unset: the average, if there is one."""


ARGS = ConvertArgs


def run(arguments: list[str]) -> int:
    """Convert the file and print the layouts of both."""
    args = parse(ConvertArgs, "convert", arguments)
    from twins.weights.convert import convert

    checkpoint = convert(args.source, args.target, to=args.to, weights_key=args.weights_key)
    if note := checkpoint.network.note(checkpoint.path):
        print(f"note: {in_flags(note, ConvertArgs)}")
    print(f"{args.source} ({checkpoint.dialect} layout) written as {args.target} ({args.to} layout)")
    return 0
