"""What the demos learn, against their floors.

Command: python benchmarks/demos.py [--tasks detection instance ...] [--out FOLDER]
Each runs as `twins demo` has it, by the clock; the floors are of two idle cores, for busy ones do less. Ends with
1 where a floor is not reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from twins.cli import demo
from twins.tasks.table import facts_of

FLOORS = {"classification": 0.97, "semantic": 0.75, "detection": 0.75, "instance": 0.6}
"""Accuracy, mean IoU, box and mask AP50 on what was held out."""


def main() -> int:
    """Run the demos that were asked for; print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(FLOORS), choices=list(FLOORS))
    parser.add_argument("--out", type=Path, default=Path("runs/demos"))
    args = parser.parse_args()
    rows, short = ["| task | measured | found | floor | all in |", "| --- | --- | --- | --- | --- |"], False
    for task in args.tasks:
        run, began = args.out / task, time.monotonic()
        if demo.run(["--task", task, "--out", str(run)]):
            return 1
        facts = facts_of(task)
        assert facts.demo is not None
        name = facts.demo.metric
        found = json.loads((run / "eval.json").read_text())["metrics"][name]
        minutes, seconds = divmod(round(time.monotonic() - began), 60)
        rows.append(f"| {task} | {facts.metrics[name]} | {found:.1%} | {FLOORS[task]:.0%} | {minutes}:{seconds:02d} |")
        short |= found < FLOORS[task]
    print("\n".join(rows))
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
