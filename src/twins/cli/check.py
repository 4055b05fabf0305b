"""`twins check`: report the problems of a data set before training."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from twins.cli.parse import in_flags, parse
from twins.data.config import EMBEDDED, BoxConfig, DataConfig, LayoutConfig, MaskConfig
from twins.engine.config import TrainConfig
from twins.errors import ConfigError, number_of
from twins.files import json_text

if TYPE_CHECKING:
    from twins.data.checks.scan import CheckReport
    from twins.tasks.suits import Suit


@dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Read a whole data set and report its contents and its problems.

    The exit code is 0 without problems and 1 with some.
    """

    data: Annotated[str, Positional, arg(metavar="DATA")]
    """Data set: a folder with one folder per class, with images and masks, or with images and boxes; a `data.yaml` in
    it; or an embedded set, `digits` or `scenes`."""
    task: str | None = None
    """Task to check the data for: `classification`, `semantic`, `detection` or `instance`; unset: the one that uses
    most of the annotations."""
    json: bool = False
    """Print JSON instead of text."""
    seed: int = 0
    """Seed of the split of data without a validation part."""
    val_share: float = 0.2
    """Share held out of data without a validation part."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """How the classes of boxes are read."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    """Where the parts of the data are, for folders that no convention fits."""
    write_layout: bool = False
    """Write `twins.yaml` into the folder, with the layout as it was recognised; never over another."""


ARGS = CheckArgs


def run(arguments: list[str]) -> int:
    """Print the report; return 0 without problems, otherwise 1."""
    args = parse(CheckArgs, "check", arguments)
    from twins.tasks.contract import spec_of
    from twins.tasks.suits import best_task, suits

    source = DataConfig(
        data=args.data,
        seed=args.seed,
        val_share=args.val_share,
        masks=args.masks,
        boxes=args.boxes,
        layout=args.layout,
    )
    found = {} if args.task else suits(source)
    task = args.task or best_task(found, source)
    spec = spec_of(task)
    if args.write_layout:
        _write_layout(source, spec.open(source).layout)
    report = _in_flags(spec.check(source))
    if args.json:
        tasks = {name: suit.to_dict() for name, suit in found.items()}
        print(json_text({**report.to_dict(), "task": task, "tasks": tasks}, indent=1))
    else:
        _show_tasks(found, task)
        _show(report)
    return 1 if report.problems else 0


def _show_tasks(found: dict[str, Suit], checked: str) -> None:
    """Print for which tasks the data opens."""
    width = max(map(len, found), default=0)
    for name, suit in found.items():
        reason = in_flags(str(suit.error).partition("; ")[0], TrainConfig)
        text = f"no: {shorten(reason, 150)}" if suit.splits is None else f"yes, as {suit.splits.plan.layout}"
        print(f"--task {name:<{width}}  {text}{', checked here' if name == checked else ''}")


def _write_layout(source: DataConfig, layout: LayoutConfig) -> None:
    """Write `twins.yaml` beside the data; raises ConfigError if it exists or cannot be written."""
    from twins.data.formats.source import LAYOUT_FILE, layout_text

    if source.data in EMBEDDED or not Path(source.data).is_dir():
        raise ConfigError(f"{source.data} is no folder, so no {LAYOUT_FILE} is written beside it; give a folder")
    path = Path(source.data) / LAYOUT_FILE
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists and is kept; change it, or remove it first")
    if layout == LayoutConfig():
        raise ConfigError(f"{source.data} needs no {LAYOUT_FILE}: the folder itself is all there is to say")
    try:
        path.write_text(layout_text(layout), encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); give the settings as flags") from error


def _in_flags(report: CheckReport) -> CheckReport:
    """Spell the settings in a report's sentences as flags of `twins train`, since most are not flags of `check`."""
    problems = [in_flags(sentence, TrainConfig) for sentence in report.problems]
    notes = [in_flags(sentence, TrainConfig) for sentence in report.notes]
    return replace(report, problems=problems, notes=notes)


def _show(report: CheckReport) -> None:
    uses = {"train": "to train on", "val": "held out", "test": "to test on"}
    counts = [f"{count} {uses[part]}" for part, count in report.images.items()]
    first = next(iter(report.images.values()))
    parts = ", ".join([f"{number_of(first, 'image')} {counts[0].partition(' ')[2]}", *counts[1:]])
    print(f"{report.data}: {number_of(len(report.names), 'class', 'classes')}, {parts}")
    for line in report.plan.lines():
        print(line)
    for axis, (smallest, median, largest) in report.sizes.items():
        print(f"{axis}: {smallest} to {largest} pixels, median {median}")
    width = max(map(len, report.names))
    for name in report.names:
        cells = [f"{split} {counts[name]:>6}" for split, counts in report.counts.items()]
        cells += [f"{shares[name]:8.2%} of {split} pixels" for split, shares in report.shares.items()]
        print(f"  {name:<{width}}  {'  '.join(cells)}")
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(f"{number_of(len(report.problems), 'problem')} found" if report.problems else "no problems found")
