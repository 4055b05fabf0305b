"""`twins train`: train a network, or resume a run; writes a run folder with a report."""

from __future__ import annotations

from twins.cli.parse import given_settings, parse, value_of
from twins.engine.config import TrainConfig
from twins.tasks.recipes import starting_point

ARGS = TrainConfig


def run(arguments: list[str]) -> int:
    """Train with the recipe's settings, which flags override."""
    if value_of("--resume", arguments):
        start = TrainConfig()
    else:
        start = starting_point(
            value_of("--recipe", arguments),
            data=value_of("--data", arguments) or "",
            task=value_of("--task", arguments),
            model=value_of("--model", arguments),
            weights=value_of("--weights", arguments) or "auto",
            length=next((name for name in ("minutes", "steps", "epochs") if value_of(f"--{name}", arguments)), None),
        )
    config = parse(TrainConfig, "train", arguments, default=start)
    from twins.engine.log import format_metrics
    from twins.run_folder import REPORT
    from twins.training import train

    result = train(config, given=given_settings(TrainConfig, arguments))
    if result.interrupted:
        return 130
    print(f"best weights: {format_metrics(result.metrics)}\nreport: {result.path / REPORT}")
    return 0
