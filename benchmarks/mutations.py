"""Damaged and unusual data sets: each is opened and checked, and must be read or refused without a traceback.

Command: python benchmarks/mutations.py --count 1000 --seed 1 --out docs/results/mutations.md

A draw is a small set of one format with one to three changes: files renamed, moved, doubled, linked, emptied, truncated
or replaced by folders; texts in another encoding; lines and values removed, doubled, swapped or of another type. It
passes if it is opened or refused with an error of `twins.errors`, and if each file below the folder is either used or
passed over. A draw depends only on the format, the seed and its number, so a failure can be repeated: `--format NAME
--seed SEED --first NUMBER --count 1 --keep FOLDER` leaves its files in FOLDER.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from changes import CHANGES
from small_sets import FORMATS as PLAIN_FORMATS
from small_sets import Format
from tool_sets import TOOL_FORMATS

from twins.data.config import PARTS, DataConfig, LayoutConfig
from twins.errors import TwinsError
from twins.files import write_json
from twins.tasks.contract import spec_of
from twins.tasks.table import TASKS

FORMATS = (*PLAIN_FORMATS, *TOOL_FORMATS)
"""The formats to draw from."""


class Draw(NamedTuple):
    """The result of one draw."""

    number: int
    changes: str
    """What was changed."""
    outcome: str
    """`opened`, `refused` or `failed`."""
    message: str
    """The error; empty if the set was opened."""


def run_draw(kind: Format, seed: int, number: int, template: Path, folder: Path) -> Draw:
    """Change a copy of a valid set, and open and check it."""
    draw = random.Random(f"{kind.name} {seed} {number}")
    shutil.copytree(template, folder, symlinks=True)
    changes = "; ".join(draw.choice(CHANGES)(draw, folder) for _ in range(draw.choice((1, 1, 2, 3))))
    task = draw.choice(kind.tasks) if draw.random() < 0.8 else draw.choice(tuple(TASKS))
    config = draw_settings(draw, folder)
    changes += f", with {config.layout}" if config.layout != LayoutConfig() else ""
    try:
        open_and_check(folder, task, config)
        return Draw(number, changes, "opened", "")
    except TwinsError as error:
        outcome = "failed" if "\n" in str(error) else "refused"
        return Draw(number, changes, outcome, str(error))
    except Exception:
        return Draw(number, changes, "failed", f"{task}: {traceback.format_exc()}")


def draw_settings(draw: random.Random, folder: Path) -> DataConfig:
    """Return the settings of a draw: mostly none, else layout settings that lead to any files of the set."""
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    yaml = [path for path in paths if path.endswith(".yaml") and (folder / path).is_file()]
    if yaml and draw.random() < 0.2:
        return DataConfig(data=str(folder / draw.choice(yaml)))
    if not paths or draw.random() < 0.8:
        return DataConfig(data=str(folder))
    values: dict[str, Any] = {name: draw.choice(paths) for name in ("images", "annotations") if draw.random() < 0.4}
    values |= {name: tuple(draw.choices(paths, k=draw.choice((1, 1, 2)))) for name in PARTS if draw.random() < 0.5}
    return DataConfig(data=str(folder), layout=LayoutConfig(**values))


def open_and_check(folder: Path, task: str, config: DataConfig) -> None:
    """Open and check a data set.

    Raises:
        TwinsError: the set is refused.
        AssertionError: a file is neither used nor passed over, or the report cannot be written.
    """
    spec = spec_of(task)
    plan = spec.open(config).plan
    accounted = sum(plan.used.values()) + sum(group.count for group in plan.passed_over)
    assert accounted == plan.files, f"{accounted} files accounted for of {plan.files}"
    if config.data == str(folder) and not any(path.is_symlink() and path.is_dir() for path in folder.rglob("*")):
        files = sum(len(names) for _, _, names in os.walk(folder))
        assert plan.files == files, f"the plan counts {plan.files} of {files} files"
    report = spec.check(config)
    write_json(folder.parent / "report.json", report.to_dict())
    assert all("\n" not in sentence for sentence in (*plan.lines(), *report.notes, *report.problems))


def run_draws(kind: Format, seed: int, numbers: Sequence[int]) -> list[Draw]:
    """Return the results of draws."""
    with tempfile.TemporaryDirectory() as name:
        template = Path(name) / "template"
        kind.build(template)
        return [_in_new_folder(kind, seed, number, template) for number in numbers]


def _in_new_folder(kind: Format, seed: int, number: int, template: Path) -> Draw:
    folder = template.parent / f"draw {number}"
    try:
        return run_draw(kind, seed, number, template, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(results: dict[str, list[Draw]]) -> str:
    """Return the number of draws by outcome, as a table in Markdown."""
    rows = ["| format | sets | opened | refused | tracebacks |", "| --- | --- | --- | --- | --- |"]
    for name, draws in results.items():
        counts = Counter(draw.outcome for draw in draws)
        rows.append(f"| {name} | {len(draws)} | {counts['opened']} | {counts['refused']} | {counts['failed']} |")
    return "\n".join(rows)


def show(results: dict[str, list[Draw]]) -> None:
    """Print the table, and one failure of each kind."""
    kinds: dict[str, str] = {}
    for name, draws in results.items():
        for draw in draws:
            if draw.outcome == "failed":
                lines = [line for line in draw.message.splitlines() if "File " in line][-1:]
                shown = f"{name}, number {draw.number}: {draw.changes}\n{draw.message}"
                kinds.setdefault((lines or [draw.message])[0], shown)
    print("\n\n".join([*kinds.values(), table(results)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="draws per format")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", help="name of the only format to draw; by default all")
    parser.add_argument("--keep", type=Path, help="new folder to leave the set of the first draw in")
    parser.add_argument("--out", type=Path, help="page whose table is replaced")
    args = parser.parse_args()
    chosen = [kind for kind in FORMATS if args.format in (None, kind.name)]
    if args.keep:
        chosen[0].build(args.keep / "before")
        print(run_draw(chosen[0], args.seed, args.first, args.keep / "before", args.keep / "changed"))
        return
    numbers = range(args.first, args.first + args.count)
    results = {kind.name: run_draws(kind, args.seed, numbers) for kind in chosen}
    show(results)
    if args.out:
        begin, _, _ = args.out.read_text().partition("| format |")
        args.out.write_text(f"{begin}{table(results)}\n")


if __name__ == "__main__":
    main()
