"""`twins check`: a data set before training."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from twins.cli.parse import in_flags, parse
from twins.data.config import DataConfig, MaskConfig

if TYPE_CHECKING:
    from twins.data.checks.scan import CheckReport


@dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Read a whole data set and report what is in it and what would spoil a run; exit code 1 on problems."""

    data: Annotated[str, Positional, arg(metavar="DATA")]
    """Folder with one folder per class, with images and masks, or with images and boxes; or an embedded set."""
    task: str = "classification"
    """What is to be learned: `classification`, `semantic`, `detection` or `instance`."""
    json: bool = False
    """Print JSON instead of text."""
    seed: int = 0
    """As a run would split data without a validation part."""
    val_share: float = 0.2
    """Share that a run would hold out of data without a validation part."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read."""


ARGS = CheckArgs


def run(arguments: list[str]) -> int:
    """Print the report; 0 when nothing is wrong, 1 otherwise."""
    args = parse(CheckArgs, "check", arguments)
    from twins.tasks.contract import spec_of

    source = DataConfig(data=args.data, seed=args.seed, val_share=args.val_share, masks=args.masks)
    report = _in_flags(spec_of(args.task).check(source))
    if args.json:
        print(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        _show(report)
    return 1 if report.problems else 0


def _in_flags(report: CheckReport) -> CheckReport:
    """Return a report whose sentences name flags: those of `twins train`, of which `twins check` has some."""
    from twins.engine.config import TrainConfig

    problems, notes = ([in_flags(each, TrainConfig) for each in told] for told in (report.problems, report.notes))
    return replace(report, problems=problems, notes=notes)


def _show(report: CheckReport) -> None:
    learn, held_out = report.images["train"], report.images["val"]
    print(f"{report.data}: {len(report.names)} classes, {learn} images to train on, {held_out} held out")
    for axis, (low, middle, high) in report.sizes.items():
        print(f"{axis}: {low} to {high} pixels, median {middle}")
    width = max(map(len, report.names))
    for name in report.names:
        parts = [f"{split} {counts[name]:>6}" for split, counts in report.counts.items()]
        parts += [f"{shares[name]:8.2%} of {split} pixels" for split, shares in report.shares.items()]
        print(f"  {name:<{width}}  {'  '.join(parts)}")
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(f"{len(report.problems)} problems found" if report.problems else "no problems found")
