"""`twins export`: write a trained network as one verified file."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from tyro.conf import Positional, arg

from twins.cli.parse import FILE, in_flags, parse
from twins.cli.train import status
from twins.errors import ExportError
from twins.exporting.config import ExportConfig


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """Write a trained network as one file that carries its preprocessing, class names and decoding.

    The file is run in its own runtime on real images and compared with the network. If it computes something else, the
    command keeps it under a name with `.failed`. Then, and if the format cannot hold the network, the exit code is 1.
    Beside the file stands its sheet, a JSON file with the comparison.
    """

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """Run folder, checkpoint or published name."""
    out: Annotated[str | None, FILE] = None
    """File to write: .onnx, .xml or .pt2; unset: in `exports/` of the run, or in the current folder."""
    config: Annotated[ExportConfig, arg(name="")] = field(default_factory=ExportConfig)
    """What to write, and how to verify it."""


ARGS = ExportArgs


def run(arguments: list[str]) -> int:
    """Export the network, and print what the file is and how it compares."""
    args = parse(ExportArgs, "export", arguments)
    from twins.exporter import export

    with status("reading the network", quiet=False) as shown:
        try:
            on_step = shown.update if shown is not None else partial(print, file=sys.stderr, flush=True)
            result = export(args.model, args.out, args.config, on_step=on_step)
        except ExportError as error:
            print(f"twins: {in_flags(str(error), ExportArgs)}", file=sys.stderr)
            return 1
    for line in result.lines():
        print(line)
    if not result.info.features:  # maps are for `Predictor.embed`
        print(f"next: twins predict {shlex.quote(str(result.path))} IMAGE...")
    return 0
