"""`twins eval`: measure a trained network on a data set, or score a COCO results file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from twins.backbone.config import list_models
from twins.cli.parse import in_flags, parse
from twins.data.config import EMBEDDED
from twins.engine.config import EvalConfig, read_config
from twins.errors import ConfigError, NotFoundError, nearest, number_of
from twins.run_folder import CONFIG, RESULT, find_run, weights_of
from twins.tasks.table import facts_of, tasks_with


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    """Evaluate a network on the held-out images of a data set.

    Prints the metrics and the protocol, which is all that the metrics depend on; `--out` saves both.
    """

    model: Annotated[str, Positional, tyro.conf.arg(metavar="MODEL")]
    """Run folder, checkpoint, exported file or published name; or a COCO results file to score."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Data set of the network's task: a folder, `digits` or `scenes`; unset: that of the run. For a results file: the
    COCO annotation file."""
    task: str | None = None
    """Task of a COCO results file: `detection` scores its boxes, `instance` its masks. A model knows its own task."""
    config: Annotated[EvalConfig, tyro.conf.arg(name="")] = field(default_factory=EvalConfig)
    """How to measure."""


ARGS = EvalArgs


def run(arguments: list[str]) -> int:
    """Print the protocol, the metrics and the classes with the lowest scores."""
    args = parse(EvalArgs, "eval", arguments)
    if args.model.endswith(".json"):
        return _score(args)
    if args.task is not None:
        raise ConfigError(f"--task is for results files (.json); {args.model} knows its own task, leave --task out")
    data = args.data or _data_of(args.model)
    from twins.evaluation import evaluate

    if args.config.out and os.path.exists(args.config.out) and os.path.basename(args.config.out) == RESULT:
        print(f"note: {args.config.out} is replaced")
    result = evaluate(args.model, data, args.config)
    for note in result.notes:
        print(f"note: {in_flags(note, EvalArgs)}")
    print(_protocol(result.protocol))
    _show(result.metrics, result.protocol["task"], result.details)
    if result.skipped:
        print(f"  not counted: {number_of(len(result.skipped), 'image')} that could not be read")
    return 0


def _data_of(model: str) -> str:
    """Return the data set of the run that a network is of.

    Raises:
        ConfigError: the network is of no run.
        NotFoundError: there is no such network, or the run's data is no longer there.
    """
    if (run := find_run(model)) is None:
        if not os.path.exists(weights_of(model)) and nearest(model, list_models()) == "":
            raise NotFoundError(f"there is no run folder or weight file {model}; check the path")
        raise ConfigError(f"{model} is of no run and does not know its data; give the data set as `data`")
    data = read_config(run / CONFIG).data
    if data not in EMBEDDED and not os.path.exists(data):
        raise NotFoundError(f"the data {data} of {run} does not exist; if it has moved, give its new folder as `data`")
    return data


def _score(args: EvalArgs) -> int:
    """Score a COCO results file."""
    if args.data is None:
        raise ConfigError(f"{args.model} is a results file; give the COCO file with the true objects as `data`")
    box_tasks = tasks_with("prediction_fields", "boxes")
    if args.task not in box_tasks:
        raise ConfigError(f"{args.model} is a results file; give --task {' or --task '.join(box_tasks)}")
    default, masks = EvalConfig(out=args.config.out), "masks" in facts_of(args.task).prediction_fields
    if changed := [name for name, value in vars(args.config).items() if value != getattr(default, name)]:
        raise ConfigError(f"a results file is scored as it is; leave out `{changed[0]}`")
    from twins.evaluation import versions
    from twins.files import check_outputs, sha256, write_json
    from twins.metrics.coco_results import score_results

    out = args.config.out
    check_outputs({"out": out}, [("the results file", args.model), ("the file with the truth", args.data)])
    result = score_results(Path(args.model), Path(args.data), masks=masks)
    print(f"{args.model} against {args.data}: {'masks' if masks else 'boxes'}, COCO's protocol")
    for note in result["notes"]:
        print(f"note: {in_flags(note, EvalArgs)}")
    _show(result["metrics"], args.task, result)
    if out:
        facts = {"protocol": {"task": args.task, "results": args.model, "data": args.data}, "versions": versions()}
        facts["hashes"] = {"results": sha256(Path(args.model)), "truth": sha256(Path(args.data))}
        write_json(out, {"format": 1, **result, **facts})
    return 0


def _show(metrics: dict[str, float], task: str, details: dict[str, Any]) -> None:
    from twins.engine.measure import is_loss
    from twins.tasks.contract import spec_of

    for name, value in metrics.items():
        print(f"  {name:<20} {value:6.4f}" if is_loss(name) else f"  {name:<20} {100 * value:6.2f} %")
    worst = spec_of(task).worst_classes(details["per_class"])
    if worst:
        print("classes with the lowest scores:")
    for line in worst:
        print(f"  {line}")
    truth = details.get("truth", {})
    if truth.get("crowd") or truth.get("without_area"):
        crowds, flat = number_of(truth["crowd"], "crowd region"), number_of(truth["without_area"], "box", "boxes")
        print(f"  the ground truth also has {crowds} and {flat} without area, and is scored with them")


def _protocol(protocol: dict[str, Any]) -> str:
    """Return the protocol, on which the metrics depend, in one line."""
    parts = [f"size {protocol['size']}", protocol["interpolation"], f"padding {protocol['padding']}"]
    if protocol["fit"] == "keep":
        parts.insert(1, f"longest {protocol['longest']}")
    if protocol["fit"] == "crop":
        parts.insert(1, f"crop {protocol['crop']:g}")
    masks, inference = protocol.get("masks", {}), protocol.get("inference", {})
    parts += [f"masks.{key} {value}" for key, value in masks.items() if value not in ("auto", (), None)]
    parts += [f"{key} {value}" for key, value in inference.items() if value not in (None, False, (1.0,))]
    parts += [
        key if value is True else f"{key} {value:g}"
        for key, value in protocol.get("selection", {}).items()
        if value is not False
    ]
    if "absent_classes" in protocol:
        parts.append(f"absent classes {protocol['absent_classes'].replace('_', ' ')}")
    return (
        f"{protocol['model']} on {number_of(protocol['images'], 'image')} of {protocol['data']} ({protocol['split']}): "
        f"{', '.join(parts)}, {protocol['precision']} on {protocol['device']}"
    )
