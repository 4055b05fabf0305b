"""`twins models`: the table of networks, computed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from twins.backbone.config import PUBLISHED, aliases, list_models
from twins.cli.parse import parse

if TYPE_CHECKING:
    from rich.table import Table


DENSE = {
    "semantic": "Semantic segmentation, 150 classes",
    "detection": "Detection, 80 classes",
    "instance": "Instance segmentation, 80 classes",
}
"""Tasks whose networks are listed beside the classifiers, and what to call them."""
HEAD_TITLES = {
    "semantic_fpn": "Semantic FPN",
    "upernet": "UPerNet with auxiliary head",
    "retinanet": "RetinaNet",
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
}


@dataclass(frozen=True, kw_only=True)
class ModelsArgs:
    """List the networks: parameters and multiply-adds as counted here, published accuracy with its source."""

    json: bool = False
    """Print JSON instead of a table."""
    size: int = 224
    """Side of the input for counting multiply-adds, in pixels."""


ARGS = ModelsArgs
"""What the verb takes."""


def run(arguments: list[str]) -> int:
    """Print the tables."""
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
            | {task: _dense(name, task) for task in DENSE}
        )
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _show(rows, args.size)
    return 0


def _dense(name: str, task: str) -> dict[str, dict[str, Any]]:
    """Return parameters counted and millions published, by head."""
    from twins.bench.counts import DENSE_SOURCE, PUBLISHED_DENSE, dense_counts

    return {
        head: {
            "params": params,
            "published_millions": (millions := PUBLISHED_DENSE.get(name, {}).get(head)),
            "source": DENSE_SOURCE if millions else None,
        }
        for head, params in dense_counts(name, task).items()
    }


def _show(rows: list[dict[str, Any]], size: int) -> None:
    from rich.console import Console

    from twins.bench.counts import DENSE_SOURCE

    console = Console()
    console.print(_classifiers(rows, size))
    console.print("GMACs: multiply-adds by torch's counter, with / without attention's products")
    console.print(f"top-1 as reported: {next(iter(PUBLISHED.values())).source}, ImageNet-1k validation, 224\n")
    for task, title in DENSE.items():
        console.print(f"{title}, millions of parameters", style="italic")
        console.print(_dense_networks(rows, task), "")
    console.print(f"published: {DENSE_SOURCE}; it counts the backbone's unused norm and classifier too")


def _classifiers(rows: list[dict[str, Any]], size: int) -> Table:
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
            ", ".join(row["aliases"]),
        )
    return table


def _dense_networks(rows: list[dict[str, Any]], task: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for head in rows[0][task]:
        table.add_column(HEAD_TITLES[head], justify="right")
        table.add_column("published", justify="right")
    for row in rows:
        cells = []
        for counts in row[task].values():
            published = counts["published_millions"]
            cells += [f"{counts['params'] / 1e6:.2f}", f"{published:g}" if published else "-"]
        table.add_row(row["name"], *cells)
    return table
