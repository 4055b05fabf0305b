"""`twins train`: train a network, or resume a run; writes a run folder with a report."""

from __future__ import annotations

import os
import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from twins.cli.main import VERBS
from twins.cli.parse import given_settings, parse, value_of, without
from twins.engine.config import LENGTHS, TrainConfig
from twins.tasks.recipes import starting_point

ARGS = TrainConfig


def run(arguments: list[str]) -> int:
    """Train with the recipe's settings, which flags override."""
    length = next((name for name in reversed(LENGTHS) if value_of(f"--{name}", arguments)), None)
    if value_of("--resume", arguments):
        start = TrainConfig(extend=length is not None)
    else:
        start = starting_point(
            value_of("--recipe", arguments),
            data=value_of("--data", arguments) or "",
            task=value_of("--task", arguments),
            model=value_of("--model", arguments),
            weights=value_of("--weights", arguments) or "auto",
            length=length,
        )
    if value_of("--batch-size", arguments) == "auto":
        start, arguments = replace(start, auto_batch=True), without("--batch-size", arguments)
    config = parse(TrainConfig, "train", arguments, default=start)
    with status("loading PyTorch ...", quiet=config.quiet):
        from twins.engine.log import format_metrics
        from twins.run_folder import REPORT
        from twins.training import train

    result = train(config, given=given_settings(TrainConfig, arguments))
    if result.interrupted:
        return 130
    if os.environ.get("RANK", "0") == "0":  # torchrun sets it: one of its processes is enough
        print(f"best weights: {format_metrics(result.metrics)}\nreport: {result.path / REPORT}")
        print_next(result.path)
    return 0


def status(message: str, *, quiet: bool) -> AbstractContextManager[Any]:
    """Show a message on a terminal while the block runs."""
    from rich.console import Console

    console = Console(stderr=True)
    return nullcontext() if quiet or not console.is_terminal else console.status(message)


def print_next(run: Path) -> None:
    """Print the commands that people use after a training."""
    folder = shlex.quote(str(run))
    commands = {"eval": folder, "predict": f"{folder} IMAGE...", "export": f"{folder} --format onnx"}
    commands |= {"serve": f"{folder} --open-browser"}
    for index, (verb, words) in enumerate((verb, words) for verb, words in commands.items() if verb in VERBS):
        print(f"{'     ' if index else 'next:'} twins {verb} {words}")
