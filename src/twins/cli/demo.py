"""`twins demo`: train on embedded data and show the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from twins.cli.parse import parse
from twins.engine.config import TrainConfig
from twins.errors import ConfigError
from twins.run_folder import BEST, REPORT
from twins.tasks.inference import SelectionConfig
from twins.tasks.recipes import starting_point
from twins.tasks.table import TASKS, facts_of, part_of


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """Train twins_svt_nano on embedded real images, evaluate it, and draw its predictions.

    Classification learns scikit-learn's handwritten digits. The other tasks find such digits on photographs. Detection
    and instance segmentation start from a backbone trained on the digits.
    """

    task: str = "classification"
    """Task to train: `classification`, `semantic`, `detection` or `instance`."""
    out: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder; unset is `runs/<model>-<data>-<number>`.
    The classifier that a detector starts from is saved in `RUN-digits`."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda or mps."""


ARGS = DemoArgs


def run(arguments: list[str]) -> int:
    """Train, evaluate, predict, and print the paths of the drawing and the report."""
    args = parse(DemoArgs, "demo", arguments)
    facts = facts_of(args.task)
    if facts.demo is None:
        demos = [task for task in TASKS if facts_of(task).demo is not None]
        raise ConfigError(f"{args.task} has no demo; the tasks with one are {', '.join(demos)}")
    start = starting_point(facts.demo.recipe)
    config: TrainConfig = replace(start, out=args.out, device=args.device)  # type: ignore[arg-type]
    from twins.predictor import load
    from twins.training import train

    if facts.demo.starts_from is not None and (first := facts_of(facts.demo.starts_from).demo) is not None:
        print(first.intro)
        pretraining = starting_point(first.recipe)
        pretrained = train(replace(pretraining, out=args.out and f"{args.out}-{first.data}", device=config.device))
        if pretrained.interrupted:
            return 130
        config = replace(config, weights=str(pretrained.path / BEST))
    print(facts.demo.intro)
    result = train(config)
    if result.interrupted:
        return 130
    picture = result.path / "predictions.png"
    selection = SelectionConfig(score=0.5, agnostic=True) if facts.selection else None
    predictor = load(result.path, device=args.device, selection=selection)
    part_of(args.task, "report").demo_picture(predictor.predict).save(picture)
    metric = facts.demo.metric
    print(f"held-out {facts.metrics[metric]}: {100 * result.metrics[metric]:.2f} %")
    print(f"predictions drawn: {picture}")
    print(f"report: {result.path / REPORT}")
    return 0
