"""Scores of the demos, compared with their floors.

Command: python benchmarks/demos.py [--tasks detection instance ...] [--out FOLDER]
Each demo runs like `twins demo`. Its training has a time limit, so the floors hold for two idle cores. The exit code is
1 if a score is below its floor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from twins.cli import demo
from twins.tasks.table import facts_of

FLOORS = {"classification": 0.97, "semantic": 0.75, "detection": 0.9, "instance": 0.8}
"""Lowest acceptable accuracy, mean IoU, box AP50 and mask AP50 on the held-out images."""


def main() -> int:
    """Run the chosen demos and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(FLOORS), choices=list(FLOORS))
    parser.add_argument("--out", type=Path, default=Path("runs/demos"))
    args = parser.parse_args()
    rows, failed = ["| task | metric | score | floor | total time |", "| --- | --- | --- | --- | --- |"], False
    for task in args.tasks:
        run, start = args.out / task, time.monotonic()
        if demo.run(["--task", task, "--out", str(run)]):
            return 1
        facts = facts_of(task)
        metric = facts.demo.metric
        score = json.loads((run / "eval.json").read_text())["metrics"][metric]
        minutes, seconds = divmod(round(time.monotonic() - start), 60)
        title = facts.metrics[metric]
        rows.append(f"| {task} | {title} | {score:.1%} | {FLOORS[task]:.0%} | {minutes}:{seconds:02d} |")
        failed |= score < FLOORS[task]
    print("\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
