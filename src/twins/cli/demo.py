"""`twins demo`: a whole run on embedded data, with its result shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

from twins.cli.parse import parse
from twins.engine.config import TrainConfig
from twins.recipes.table import starting_point


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """Train twins_svt_nano on scikit-learn's real handwritten digits, evaluate it, and show what it sees."""

    task: str = "classification"
    """What is learned."""
    out: str | None = None
    """Run folder; unset is `runs/<model>-digits-<number>`."""
    device: str = "auto"
    """What computes: auto, cpu, cuda or mps."""


def run(arguments: list[str]) -> int:
    """Train, evaluate, predict, and say where the report is."""
    args = parse(DemoArgs, "demo", arguments)
    from twins.factory import check_runs

    check_runs(args.task)
    config: TrainConfig = replace(starting_point(data="digits"), out=args.out, device=args.device)  # type: ignore[arg-type]
    from twins.training import train

    print("learning 1,438 handwritten digits; 359 others are held out to measure")
    result = train(config)
    if result.interrupted:
        return 130
    picture = result.path / "predictions.png"
    _draw(str(result.path), picture)
    print(f"held-out accuracy: {100 * result.metrics['top1']:.2f} %")
    print(f"predictions drawn: {picture}")
    print(f"report: {result.path / 'report.html'}")
    return 0


def _draw(run_folder: str, picture: object) -> None:
    """Draw the first held-out digits with what the network reads in them."""
    from twins.data.dataset import Digits
    from twins.drawing import grid
    from twins.predictor import load

    digits, count = Digits(train=False), 24
    images = [digits.load(index) for index in range(count)]
    found = load(run_folder).predict(images, batch_size=count)
    top = [(int(p.labels[0]), float(p.scores[0])) for p in found if p.labels is not None and p.scores is not None]
    captions = [f"{digits.names[label]}  {score:.0%}" for label, score in top]
    right = [label == digits.labels[index] for index, (label, _) in enumerate(top)]
    grid(images, captions, columns=8, side=96, good=right).save(str(picture))
