"""`twins demo`: train on embedded data and show the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from twins.cli.parse import parse
from twins.cli.train import print_next, status
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
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print only problems and the end; `log.txt` has all."""
    verbose: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print also every training row."""


ARGS = DemoArgs


def run(arguments: list[str]) -> int:
    """Train, evaluate, predict, and print the paths of the drawing and the report."""
    args = parse(DemoArgs, "demo", arguments)
    facts = facts_of(args.task)
    if facts.demo is None:
        demos = [task for task in TASKS if facts_of(task).demo is not None]
        raise ConfigError(f"{args.task} has no demo; the tasks with one are {', '.join(demos)}")
    start = starting_point(facts.demo.recipe)
    switches = {"device": args.device, "quiet": args.quiet, "verbose": args.verbose}
    config: TrainConfig = replace(start, out=args.out, **switches)  # type: ignore[arg-type]
    with status("loading PyTorch ...", quiet=args.quiet):
        from twins.predictor import load
        from twins.training import train

    if facts.demo.starts_from is not None and (first := facts_of(facts.demo.starts_from).demo) is not None:
        _print_intro(first.intro, quiet=args.quiet)
        pretraining = starting_point(first.recipe)
        out = args.out and f"{args.out}-{first.data}"
        pretrained = train(replace(pretraining, out=out, **switches))  # type: ignore[arg-type]
        if pretrained.interrupted:
            return 130
        config = replace(config, weights=str(pretrained.path / BEST))
    _print_intro(facts.demo.intro, quiet=args.quiet)
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
    print_next(result.path)
    return 0


def _print_intro(intro: str, *, quiet: bool) -> None:
    if not quiet:
        print(intro, flush=True)
