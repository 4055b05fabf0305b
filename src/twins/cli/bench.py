"""`twins bench`: speed and memory on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twins.backbone.config import resolve_name
from twins.bench.config import BenchConfig
from twins.cli.parse import parse
from twins.errors import ConfigError, NotFoundError
from twins.files import check_outputs, too_long, write_json

ARGS = BenchConfig


def run(arguments: list[str]) -> int:
    """Measure, print the table row by row; write JSON and a plot where asked, after each row."""
    config = parse(BenchConfig, "bench", names_first(arguments))
    from twins.bench.chart import write_plot
    from twins.bench.compare import run_bench

    check_outputs({"json": config.json})
    _check_plot(config.plot)

    def keep(result: dict[str, Any]) -> None:
        """Write what is measured so far: what an interruption leaves is whole."""
        if config.json:
            write_json(Path(config.json), result)
        if config.plot:
            write_plot(result, Path(config.plot), budget=config.budget)

    run_bench(config, tell=lambda text: print(text, flush=True), keep=keep)
    return 0


def _check_plot(plot: str | None) -> None:
    """Raise ConfigError for a plot that cannot be made; one of an earlier run is drawn anew."""
    if plot is None:
        return
    if too_long(plot) or not Path(plot).parent.is_dir():
        raise ConfigError(f"--plot {plot}: there is no folder {Path(plot).parent} for a file of this name")
    if Path(plot).is_dir():
        raise ConfigError(f"--plot {plot} is a folder; name a file in it")


def names_first(arguments: list[str]) -> list[str]:
    """Return a command line with networks moved to its front from among the values of flags that take several.

    `--size 224 twins_svt_small` reads the network as a size otherwise.
    """
    several = {"--against", "--batch", "--modes", "--precision", "--size"}
    flag = ""
    front: list[str] = []
    rest: list[str] = []
    for argument in arguments:
        if argument.startswith("-"):
            flag = argument
        moved = flag in several and _is_network(argument)
        (front if moved else rest).append(argument)
    return front + rest


def _is_network(word: str) -> bool:
    try:
        return word == "all" or bool(resolve_name(word))
    except NotFoundError:
        return False
