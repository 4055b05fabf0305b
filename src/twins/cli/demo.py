"""`twins demo`: a whole run on embedded data, with its result shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from twins.cli.parse import parse
from twins.engine.config import TrainConfig
from twins.tasks.recipes import starting_point

DATA = {"classification": "digits", "semantic": "scenes", "detection": "scenes", "instance": "scenes"}
BEGIN = {
    "classification": "learning 1,438 handwritten digits; 359 others are held out to measure",
    "semantic": "learning where digits are on 2,000 scenes, for three minutes; 200 others are held out to measure",
    "detection": "learning to find digits on 2,000 scenes, for three and a half minutes; 200 others are held out",
    "instance": "learning to cut digits out of 2,000 scenes, for two minutes; 200 others are held out to measure",
}


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """Train twins_svt_nano on embedded real images, evaluate it, and draw its predictions.

    Classification learns scikit-learn's handwritten digits. The other tasks find such digits on photographs; detection
    and instance segmentation start from a backbone trained on the digits.
    """

    task: str = "classification"
    """Task to train: `classification`, `semantic`, `detection` or `instance`."""
    out: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder; unset is `runs/<model>-<data>-<number>`. The classifier that a detector starts from is kept in
    `<out>-digits`."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda or mps."""


ARGS = DemoArgs
"""What the verb takes."""


def run(arguments: list[str]) -> int:
    """Train, evaluate, predict, and say where the report is."""
    args = parse(DemoArgs, "demo", arguments)
    start = starting_point(data=DATA.get(args.task, ""), task=args.task)
    config: TrainConfig = replace(start, out=args.out, device=args.device)  # type: ignore[arg-type]
    from twins.training import train

    if args.task in ("detection", "instance"):
        print(BEGIN["classification"])
        digits = replace(starting_point(data="digits"), out=args.out and f"{args.out}-digits", device=config.device)
        read = train(digits)
        if read.interrupted:
            return 130
        config = replace(config, weights=str(read.path / "best.safetensors"))
    print(BEGIN[args.task])
    result = train(config)
    if result.interrupted:
        return 130
    picture = result.path / "predictions.png"
    DRAW[args.task](str(result.path), picture)
    name = LEADING[args.task]
    print(f"held-out {NAMES[name]}: {100 * result.metrics[name]:.2f} %")
    print(f"predictions drawn: {picture}")
    print(f"report: {result.path / 'report.html'}")
    return 0


def _draw_digits(run_folder: str, picture: Path) -> None:
    """Draw the first held-out digits with what the network reads in them."""
    from twins.data.base import Digits
    from twins.drawing import grid
    from twins.predictor import load

    digits, count = Digits(train=False), 24
    images = [digits.load(index) for index in range(count)]
    found = load(run_folder).predict(images, batch_size=count)
    top = [(int(p.labels[0]), float(p.scores[0])) for p in found if p.labels is not None and p.scores is not None]
    captions = [f"{digits.names[label]}  {score:.0%}" for label, score in top]
    right = [label == digits.labels[index] for index, (label, _) in enumerate(top)]
    grid(images, captions, columns=8, side=96, good=right).save(picture)


def _draw_scenes(run_folder: str, picture: Path) -> None:
    """Draw the first held-out scenes, each with the digits that the network finds on it."""
    from twins.data.formats.scenes import SemanticScenes
    from twins.drawing import grid, overlay, palette
    from twins.predictor import load

    scenes, count = SemanticScenes(train=False), 6
    images = [scenes.load(index) for index in range(count)]
    found = load(run_folder).predict(images)
    shown, captions = [], []
    for image, prediction in zip(images, found, strict=True):
        assert prediction.label_map is not None
        areas = {name: pixels for name, pixels in prediction.to_dict()["areas"].items() if name != "background"}
        digits = sorted(name for name, pixels in areas.items() if pixels >= 40)
        shown += [image, overlay(image, prediction.label_map, palette(prediction))]
        captions += ["", f"finds {' '.join(digits)}"]
    grid(shown, captions, columns=6, side=150).save(picture)


def _draw_objects(run_folder: str, picture: Path) -> None:
    """Draw the first held-out scenes, each beside itself with the objects that the network finds on it."""
    from twins.data.formats.scenes import draw_scene
    from twins.drawing import grid
    from twins.predictor import load
    from twins.tasks.inference import SelectionConfig

    predictor = load(run_folder, selection=SelectionConfig(score=0.5, agnostic=True))
    images = [draw_scene(index, train=False).image for index in range(6)]
    shown, captions = [], []
    for image, prediction in zip(images, predictor.predict(images), strict=True):
        assert prediction.labels is not None
        shown += [image, prediction.draw(image)]
        captions += ["", f"finds {' '.join(sorted(prediction.name(label) for label in prediction.labels.tolist()))}"]
    grid(shown, captions, columns=4, side=300).save(picture)


LEADING = {"classification": "top1", "semantic": "miou", "detection": "box_ap50", "instance": "mask_ap50"}
NAMES = {"top1": "accuracy", "miou": "mean IoU", "box_ap50": "box AP50", "mask_ap50": "mask AP50"}
DRAW: dict[str, Callable[[str, Path], None]] = {
    "classification": _draw_digits,
    "semantic": _draw_scenes,
    "detection": _draw_objects,
    "instance": _draw_objects,
}
