"""Speed and memory of two versions of the package: runs `twins bench` with each in turns and prints their ratios.

    git worktree add /path/to/old v0.1.0
    python benchmarks/versions.py --turns 5 /path/to/old/src src -- --modes end-to-end --batch 1 8

Every turn runs `twins bench` once with each version, on this machine and with the same arguments. A row's ratio in a
turn is the old version's median time over the new one's; the table shows the median and the span of the turns. Above 1
the new version is faster. Peak memory is each version's median over the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from training import machine

Row = dict[str, Any]


def measure(source: str, arguments: list[str]) -> dict[str, Row]:
    """Run `twins bench` and return our network's numbers by task, model, mode, batch and size."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "twins", "bench", *arguments, "--json", str(file)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": source}, stdout=subprocess.DEVNULL)
        rows = json.loads(file.read_text())["rows"]
    return {" ".join(str(row[key]) for key in ("task", "model", "mode", "batch", "size")): row["twins"] for row in rows}


def main() -> None:
    """Run the turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="folder with the old version's package")
    parser.add_argument("new", help="folder with the new version's package")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of twins bench, after --")
    args = parser.parse_args()
    arguments = [word for word in args.arguments if word != "--"]
    ratios, times, memory = defaultdict(list), defaultdict(list), defaultdict(list)
    for _ in range(args.turns):
        old, new = (measure(str(Path(source).resolve()), arguments) for source in (args.old, args.new))
        for name in old.keys() & new.keys():
            ratios[name].append(old[name]["p50_ms"] / new[name]["p50_ms"])
            times[name].append((old[name]["p50_ms"], new[name]["p50_ms"]))
            memory[name].append((old[name].get("peak_mib"), new[name].get("peak_mib")))
    print(f"{machine()}; {args.turns} turns\n")
    print("| row | old, ms | new, ms | old / new | span | old, MiB | new, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in sorted(ratios):
        old_ms, new_ms = (median(values) for values in zip(*times[name], strict=True))
        peaks = ["-" if None in values else f"{median(values):.0f}" for values in zip(*memory[name], strict=True)]
        span = f"{min(ratios[name]):.2f} to {max(ratios[name]):.2f}"
        print(f"| {name} | {old_ms:.1f} | {new_ms:.1f} | {median(ratios[name]):.2f} | {span} | {' | '.join(peaks)} |")


if __name__ == "__main__":
    main()
