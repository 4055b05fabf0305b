"""`twins compare`: one page of several runs of a task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from twins.cli.parse import FILE, parse
from twins.errors import ConfigError, TwinsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twins.report.compare import ComparedRun


@dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """Compare runs of one task: a table on the screen, and a page with curves, settings, data and images.

    The first run is the one that the others are compared to.
    """

    runs: Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders."""
    out: Annotated[str, FILE] = "compare.html"
    """HTML file to write the page to."""
    images: int = 12
    """Number of images to show on which the runs disagree; 0 predicts none."""
    seconds: float = 60.0
    """Time to predict images in, in seconds."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to predict on."""

    def __post_init__(self) -> None:
        for name in ("images", "seconds"):
            if not getattr(self, name) >= 0:  # NaN too
                raise ConfigError(f"`{name}` must be at least 0, found {getattr(self, name)}")


ARGS = CompareArgs


def run(arguments: list[str]) -> int:
    """Print the table and write the page."""
    args = parse(CompareArgs, "compare", arguments)
    from twins.files import check_outputs
    from twins.report.compare import read_runs, write_comparison
    from twins.report.disagreement import find_disagreements
    from twins.run_folder import parts_of

    runs = read_runs(args.runs)
    check_outputs({"out": args.out}, [part for path in args.runs for part in parts_of(path)])
    _show(runs)
    search = None
    if args.images:
        pairs = [(run.path, run.config) for run in runs]
        try:
            search = find_disagreements(pairs, count=args.images, seconds=args.seconds, device=args.device)
        except TwinsError as error:
            print(f"note: no images are compared: {error}")
    write_comparison(runs, search, Path(args.out))
    print(f"page: {args.out}")
    return 0


def _show(runs: Sequence[ComparedRun]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from twins.report.compare import data_note, metric_rows

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for each in runs:
        table.add_column(escape(each.name), justify="right", overflow="fold")
    for row in metric_rows(runs):
        cells = (f"{row.text(index)} {row.difference(index)[0]}".strip() for index in range(len(runs)))
        table.add_row(row.title, *cells)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(data_note(runs), markup=False)
