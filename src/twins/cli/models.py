"""`twins models`: tables of the networks with their parameters, multiply-adds and published accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twins.backbone.config import PUBLISHED, aliases, list_models
from twins.cli.parse import parse
from twins.errors import number_of
from twins.files import json_text
from twins.tasks.table import TASKS, facts_of

if TYPE_CHECKING:
    from rich.table import Table


DENSE_SOURCE = "arXiv 2104.13840, tables 2, 3, 4 and 8"
"""Source of the dense networks' published parameters, which include the backbone's unused norm and classifier."""
COUNTED_AT = 224
"""Side of the input, in pixels, at which the facts' multiply-adds are counted."""


@dataclass(frozen=True, kw_only=True)
class ModelsArgs:
    """List the networks with their parameters, multiply-adds, and published accuracy with its source."""

    json: bool = False
    """Print JSON instead of tables."""
    size: int = 224
    """Side of the input at which multiply-adds are counted, in pixels."""


ARGS = ModelsArgs


def run(arguments: list[str]) -> int:
    """Print the tables."""
    args = parse(ModelsArgs, "models", arguments)
    rows = [_row(name, args.size) for name in list_models()]
    if args.json:
        print(json_text(rows, indent=1))
    else:
        _show(rows, args.size)
    return 0


def _row(name: str, size: int) -> dict[str, Any]:
    """Return a model's row; multiply-adds at another size than `COUNTED_AT` are counted now."""
    (head,) = facts_of(_classifiers_task()).heads.values()
    macs, published = head.gmacs[name], PUBLISHED.get(name)
    if size != COUNTED_AT:
        from twins.bench.counts import model_counts

        counted = model_counts(name, size=size)
        macs = (counted.gmacs_with_attention, counted.gmacs_without_attention)
    return {
        "name": name,
        "params": head.params[name],
        "gmacs_with_attention": macs[0],
        "gmacs_without_attention": macs[1],
        "size": size,
        "top1": published.top1 if published else None,
        "source": published.source if published else None,
        "aliases": list(aliases(name)),
    } | {task: _dense(name, task) for task in _dense_tasks()}


def _classifiers_task() -> str:
    """Return the task of the first table's networks."""
    return next(task for task in TASKS if facts_of(task).in_timm)


def _dense_tasks() -> list[str]:
    """Return the other tasks, which have a table each."""
    return [task for task in TASKS if task != _classifiers_task()]


def _counted(name: str, task: str, head: str | None) -> int:
    """Count the parameters of a network that is missing in the facts."""
    import torch

    from twins.factory import create_model

    with torch.device("meta"):
        return sum(value.numel() for value in create_model(name, task=task, head=head).parameters())


def _dense(name: str, task: str) -> dict[str, dict[str, Any]]:
    """Return the parameters and the published millions of parameters by head."""
    return {
        str(head): {
            "params": head_facts.params.get(name) or _counted(name, task, head),
            "published_millions": (millions := head_facts.published_millions.get(name)),
            "source": DENSE_SOURCE if millions else None,
        }
        for head, head_facts in facts_of(task).heads.items()
    }


def _show(rows: list[dict[str, Any]], size: int) -> None:
    from rich.console import Console

    console = Console()
    console.print(_classifiers(rows, size))
    console.print("GMACs: billions of multiply-adds by torch's counter, with / without attention's products")
    console.print(f"top-1 as reported: {next(iter(PUBLISHED.values())).source}, ImageNet-1k validation, 224 x 224\n")
    for task in _dense_tasks():
        facts = facts_of(task)
        console.print(
            f"{facts.title}, {number_of(facts.num_classes, 'class', 'classes')}, millions of parameters", style="italic"
        )
        console.print(_dense_networks(rows, task), "")
    console.print(f"published: {DENSE_SOURCE}; these numbers include the backbone's unused norm and classifier")


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
    for head in facts_of(task).heads.values():
        table.add_column(head.title, justify="right")
        table.add_column("published", justify="right")
    for row in rows:
        cells = []
        for counts in row[task].values():
            published = counts["published_millions"]
            cells += [f"{counts['params'] / 1e6:.2f}", f"{published:g}" if published else "-"]
        table.add_row(row["name"], *cells)
    return table
