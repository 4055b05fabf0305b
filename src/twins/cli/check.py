"""`twins check`: report the problems of a data set before training."""

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
    """Read a whole data set and report its contents and its problems.

    The exit code is 0 without problems and 1 with some.
    """

    data: Annotated[str, Positional, arg(metavar="DATA")]
    """Data set: a folder with one folder per class, with images and masks, or with images and boxes.
    Or an embedded set: `digits` or `scenes`."""
    task: str = "classification"
    """Task to check the data for: `classification`, `semantic`, `detection` or `instance`."""
    json: bool = False
    """Print JSON instead of text."""
    seed: int = 0
    """Seed of the split of data without a validation part."""
    val_share: float = 0.2
    """Share held out of data without a validation part."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read."""


ARGS = CheckArgs


def run(arguments: list[str]) -> int:
    """Print the report; return 0 without problems, otherwise 1."""
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
    """Spell the settings in a report's sentences as flags of `twins train`, since most are not flags of `check`."""
    from twins.engine.config import TrainConfig

    problems = [in_flags(sentence, TrainConfig) for sentence in report.problems]
    notes = [in_flags(sentence, TrainConfig) for sentence in report.notes]
    return replace(report, problems=problems, notes=notes)


def _show(report: CheckReport) -> None:
    train, held_out = report.images["train"], report.images["val"]
    print(f"{report.data}: {len(report.names)} classes, {train} images to train on, {held_out} held out")
    for axis, (smallest, median, largest) in report.sizes.items():
        print(f"{axis}: {smallest} to {largest} pixels, median {median}")
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
