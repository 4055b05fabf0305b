"""`twins bench`: speed and memory on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twins.backbone.config import resolve_name
from twins.bench.config import BenchConfig, is_saved
from twins.cli.parse import parse
from twins.errors import ConfigError, NotFoundError
from twins.files import check_outputs, is_invalid_path, write_json

ARGS = BenchConfig


def run(arguments: list[str]) -> int:
    """Measure and print the table row by row; after each row, write the JSON file and the plot if asked for."""
    config = parse(BenchConfig, "bench", networks_first(arguments))
    from twins.bench.compare import run_bench
    from twins.bench.plot import write_plot

    check_outputs({"json": config.json})
    _check_plot(config.plot)

    def save(result: dict[str, Any]) -> None:
        """Write the rows measured so far, so that an interruption leaves complete files."""
        if config.json:
            write_json(Path(config.json), result)
        if config.plot:
            write_plot(result, Path(config.plot), budget=config.budget)

    run_bench(config, show=lambda text: print(text, flush=True), save=save)
    return 0


def _check_plot(plot: str | None) -> None:
    """Raise ConfigError for a plot path that cannot be written; an existing plot is overwritten."""
    if plot is None:
        return
    if is_invalid_path(plot) or not Path(plot).parent.is_dir():
        raise ConfigError(f"--plot {plot}: there is no folder {Path(plot).parent} for a file of this name")
    if Path(plot).is_dir():
        raise ConfigError(f"--plot {plot} is a folder; name a file in it")


def networks_first(arguments: list[str]) -> list[str]:
    """Move networks to the front of a command line when they follow a flag that takes several values.

    Otherwise `--size 224 twins_svt_small` would read the network as a size.
    """
    list_flags = {"--against", "--batch", "--modes", "--precision", "--size"}
    flag = ""
    networks: list[str] = []
    rest: list[str] = []
    for argument in arguments:
        if argument.startswith("-"):
            flag = argument
        moved = flag in list_flags and _is_network(argument)
        (networks if moved else rest).append(argument)
    return networks + rest


def _is_network(word: str) -> bool:
    try:
        return word == "all" or is_saved(word) or bool(resolve_name(word))
    except NotFoundError:
        return False
