"""`twins check`: a data set before training."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tyro.conf import Positional

from twins.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Read every image of a data set and report what is in it and what would spoil a run; exit code 1 on problems."""

    data: Positional[str]
    """Folder with one folder per class (or with train and val in it), or `digits`."""
    task: str = "classification"
    """What is to be learned."""
    json: bool = False
    """Print JSON instead of text."""
    seed: int = 0
    """As a run would split a folder without a validation part."""
    val_share: float = 0.2
    """Share that a run would hold out of a folder without a validation part."""


def run(arguments: list[str]) -> int:
    """Print the report; 0 when nothing is wrong, 1 otherwise."""
    args = parse(CheckArgs, "check", arguments)
    from twins.data.check import check_classification
    from twins.factory import check_runs

    check_runs(args.task)
    report = check_classification(args.data, seed=args.seed, val_share=args.val_share)
    if args.json:
        print(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
        return 1 if report.problems else 0
    total = {split: sum(counts.values()) for split, counts in report.counts.items()}
    print(f"{report.data}: {len(report.names)} classes, {total['train']} images to train on, {total['val']} held out")
    for axis, (low, middle, high) in report.sizes.items():
        print(f"{axis}: {low} to {high} pixels, median {middle}")
    width = max(map(len, report.names))
    for name in report.names:
        print(f"  {name:<{width}}  train {report.counts['train'][name]:>6}  val {report.counts['val'][name]:>6}")
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(f"{len(report.problems)} problems found" if report.problems else "no problems found")
    return 1 if report.problems else 0
