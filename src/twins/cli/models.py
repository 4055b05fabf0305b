"""`twins models`: the table of networks, computed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from twins.backbone.config import PUBLISHED, aliases, list_models
from twins.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class ModelsArgs:
    """List the networks: parameters and multiply-adds counted on the spot, published accuracy with its source."""

    json: bool = False
    """Print JSON instead of a table."""
    size: int = 224
    """Side of the input that multiply-adds are counted at, in pixels."""


def run(arguments: list[str]) -> int:
    """Print the table."""
    args = parse(ModelsArgs, "models", arguments)
    from twins.bench.counts import model_counts

    rows = []
    for name in list_models():
        published = PUBLISHED.get(name)
        rows.append(
            asdict(model_counts(name, size=args.size))
            | {
                "top1": published.top1 if published else None,
                "source": published.source if published else None,
                "aliases": list(aliases(name)),
            }
        )
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _show(rows, args.size)
    return 0


def _show(rows: list[dict[str, object]], size: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Twins at {size} x {size}, 1000 classes", box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("GMACs", justify="right", no_wrap=True)
    table.add_column("top-1", justify="right", no_wrap=True)
    table.add_column("also called", overflow="fold")
    for row in rows:
        table.add_row(
            str(row["name"]),
            f"{row['params']:,}",
            f"{row['gmacs_with_attention']:.2f} / {row['gmacs_without_attention']:.2f}",
            f"{row['top1']}" if row["top1"] else "-",
            ", ".join(row["aliases"]),  # type: ignore[arg-type]
        )
    console = Console()
    console.print(table)
    console.print("GMACs: multiply-adds by torch's counter, with / without attention's products")
    console.print(f"top-1 as reported: {next(iter(PUBLISHED.values())).source}, ImageNet-1k validation, 224")
