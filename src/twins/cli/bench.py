"""`twins bench`: speed and memory on this machine."""

from __future__ import annotations

from pathlib import Path

from twins.bench.config import BenchConfig
from twins.cli.parse import parse


def run(arguments: list[str]) -> int:
    """Measure, print the table row by row, write JSON where asked."""
    config = parse(BenchConfig, "bench", arguments)
    from twins.bench.compare import run_bench
    from twins.evaluation import write_json

    result = run_bench(config, tell=lambda text: print(text, flush=True))
    if config.json:
        write_json(Path(config.json), result)
    return 0
