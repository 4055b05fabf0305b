"""`twins eval`: a trained network on a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from twins.cli.parse import FILE, in_flags, parse
from twins.data.config import MaskConfig
from twins.errors import ConfigError, number_of
from twins.tasks.inference import InferenceConfig, SelectionConfig


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    """Evaluate a network on the held-out images of a data set; the protocol is printed and saved with the numbers."""

    model: Annotated[str, Positional, tyro.conf.arg(metavar="MODEL")]
    """Run folder, checkpoint or published name; or a COCO results file to score."""
    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    """Data set of the network's task: a folder, `digits` or `scenes`; for a results file the COCO file of the truth."""
    out: Annotated[str | None, FILE] = None
    """File to write the result to, as JSON."""
    batch_size: int | None = None
    """Images per forward pass; unset is 32, or 4 for a dense network."""
    workers: int = 0
    """Processes that load images."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    size: int | None = None
    """Side of the input in pixels, for a dense network the shorter side; unset is the network's own."""
    crop: float | None = None
    """Share of the resized image's shorter side that a classifier's centre crop keeps; unset is the network's own."""
    padding: Literal["exact", "reference", "unmasked"] | None = None
    """How local attention treats borders; unset is the network's own."""
    seed: int | None = None
    """Seed of the split of data without a validation part; unset is the run's."""
    val_share: float | None = None
    """Share held out of data without a validation part; unset is the run's."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read; unset is the run's."""
    inference: Annotated[InferenceConfig, tyro.conf.arg(name="")] = field(default_factory=InferenceConfig)
    """Inference settings of a semantic network."""
    selection: Annotated[SelectionConfig, tyro.conf.arg(name="")] = field(default_factory=SelectionConfig)
    """Score and NMS thresholds of a detector."""
    results: Annotated[str | None, FILE] = None
    """File to write a detector's objects to, as COCO results."""
    task: Literal["detection", "instance"] | None = None
    """Task of a COCO results file: its boxes or its masks are scored. A model knows its own task."""
    absent: Literal["left_out", "zero"] = "left_out"
    """Classes that neither the truth nor the predictions have: left out of a mean over classes, or counted as zero."""


ARGS = EvalArgs
"""What the verb takes."""


def run(arguments: list[str]) -> int:
    """Print the numbers, the protocol and the weakest classes."""
    args = parse(EvalArgs, "eval", arguments)
    if args.model.endswith(".json"):
        return _score(args)
    if args.task is not None:
        raise ConfigError(f"--task is for results files (.json); {args.model} knows its own task, leave --task out")
    from twins.evaluation import evaluate

    given = {name: value for name, value in vars(args).items() if name not in ("model", "data", "task")}
    given["selection"] = None if args.selection == SelectionConfig() else args.selection
    result = evaluate(args.model, args.data, **given)
    print(_protocol(result["protocol"]))
    _show(result)
    if result["skipped"]:
        print(f"  not counted: {number_of(len(result['skipped']), 'image')} that could not be read")
    return 0


def _score(args: EvalArgs) -> int:
    """Score a COCO results file."""
    if args.task is None:
        raise ConfigError(f"{args.model} is a results file; say --task detection or --task instance")
    plain = EvalArgs(model=args.model, data=args.data, task=args.task, out=args.out)
    if other := [name for name, value in vars(args).items() if value != getattr(plain, name)]:
        raise ConfigError(f"a results file is scored as it is; leave out `{other[0]}`")
    from twins.evaluation import versions
    from twins.files import check_outputs, sha256, write_json
    from twins.metrics.coco_results import score_results

    check_outputs({"--out": args.out}, [("the results file", args.model), ("the file with the truth", args.data)])
    result = score_results(Path(args.model), Path(args.data), masks=args.task == "instance")
    print(f"{args.model} against {args.data}: {'masks' if args.task == 'instance' else 'boxes'}, COCO's protocol")
    for note in result["notes"]:
        print(f"note: {in_flags(note, EvalArgs)}")
    _show(result)
    if args.out:
        facts = {"protocol": {"task": args.task, "results": args.model, "data": args.data}, "versions": versions()}
        facts["hashes"] = {"results": sha256(Path(args.model)), "truth": sha256(Path(args.data))}
        write_json(args.out, {"format": 1, **result, **facts})
    return 0


def _show(result: dict[str, Any]) -> None:
    for name, value in result["metrics"].items():
        print(f"  {name:<20} {100 * value:6.2f} %")
    for line in _weakest(result["per_class"]):
        print(f"  {line}")
    kept = result.get("truth", {})
    if kept.get("crowd") or kept.get("without_area"):
        crowds, flat = number_of(kept["crowd"], "crowd region"), number_of(kept["without_area"], "box", "boxes")
        print(f"  in the truth, which counts as it is: {crowds} and {flat} without area")


def _protocol(said: dict[str, Any]) -> str:
    """Return what the numbers depend on, in one line."""
    how = [f"size {said['size']}", said["interpolation"], f"padding {said['padding']}"]
    if said["fit"] == "keep":
        how.insert(1, f"longest {said['longest']}")
    if said["fit"] == "crop":
        how.insert(1, f"crop {said['crop']:g}")
    how += [f"masks.{key} {value}" for key, value in said.get("masks", {}).items() if value not in ("auto", (), None)]
    how += [f"{key} {value}" for key, value in said.get("inference", {}).items() if value not in (None, False, (1.0,))]
    how += [
        key if value is True else f"{key} {value:g}"
        for key, value in said.get("selection", {}).items()
        if value is not False
    ]
    if "absent_classes" in said:
        how.append(f"absent classes {said['absent_classes'].replace('_', ' ')}")
    return (
        f"{said['model']} on {number_of(said['images'], 'image')} of {said['data']} ({said['split']}): "
        f"{', '.join(how)}, {said['precision']} on {said['device']}"
    )


def _weakest(rows: list[dict[str, Any]], most: int = 5) -> list[str]:
    """Return a line for each of the classes that are found least."""
    leading = next((key for key in ("mask_ap", "ap") if rows and key in rows[0]), None)
    if leading:
        known = sorted((row for row in rows if row[leading] is not None), key=lambda row: row[leading])
        return [
            f"class {r['name']}: AP {100 * r[leading]:.1f} %, {number_of(r['objects'], 'object')}" for r in known[:most]
        ]
    if rows and "iou" in rows[0]:
        seen = sorted((row for row in rows if row["iou"] is not None), key=lambda row: row["iou"])
        return [
            f"class {row['name']}: IoU {100 * row['iou']:.1f} %, {number_of(row['pixels'], 'pixel')}"
            for row in seen[:most]
        ]
    seen = sorted((row for row in rows if row["support"]), key=lambda row: row["recall"])
    return [f"class {row['name']}: {100 * row['recall']:.1f} % of {row['support']} found" for row in seen[:most]]
