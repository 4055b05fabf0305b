"""`evaluate`: metrics of a network on a data set, with the protocol and versions that they depend on."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from twins.data.base import ImageSet, Splits
from twins.data.channels import in_channels
from twins.data.class_map import read_class_map
from twins.data.class_matching import ClassMatch, match_names
from twins.data.config import EMBEDDED
from twins.data.loading.batch import Batch, Skipped, stack_targets
from twins.data.loading.loader import EvalSamples, eval_loader
from twins.engine.config import EvalConfig
from twins.engine.display import count_images
from twins.engine.measure import HeldOutLosses, check_measured, measure, predict_batches
from twins.errors import ConfigError, DataError, NotFoundError, check_type, number_of
from twins.exported import check_device, load_exported
from twins.exporting.formats import is_exported_file
from twins.factory import create_backbone, model_from_checkpoint
from twins.files import check_outputs, sha256, write_json
from twins.machine import describe_machine
from twins.metrics.calibration import TemperatureFit
from twins.metrics.coco_results import CocoResultsFile
from twins.predictions import Prediction
from twins.predictor import check_inference, inference_form, pick_device, set_selection
from twins.preprocess import Preprocess
from twins.run_data import data_config, run_config, share_notes
from twins.run_folder import parts_of, weights_note, weights_of
from twins.tasks.contract import TaskSpec, spec_of
from twins.tasks.inference import InferenceConfig, SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of, tasks_with
from twins.weights.loading import check_finite
from twins.weights.store import resolve
from twins.weights.temperature import check_holds_temperature, save_temperature

FORMAT = 1
"""Version of `eval.json`."""
PACKAGES = ("twins-vision", "torch", "torchvision", "timm", "faster-coco-eval", "pillow", "numpy")
DEFAULT_CONFIG = EvalConfig()
PredictedBatch = tuple[list[Prediction], Batch]
"""Predictions of a batch, and the batch."""


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """Result of an evaluation; `eval.json` has the same content."""

    metrics: dict[str, float]
    """Metrics of the task, in 0..1, then the held-out `loss` and, if it has several parts, each as `loss_<part>`."""
    protocol: dict[str, Any]
    """Settings that the metrics depend on: task, model, size, crop, filter, padding, precision, data, images, ..."""
    versions: dict[str, str]
    """Versions of Python and of the packages that the metrics depend on."""
    hashes: dict[str, str | None]
    """SHA-256 of the weight file (`None` for a network without a file) and of the list of images."""
    details: dict[str, Any] = field(default_factory=dict)
    """Tables of the metric by name: `per_class` always; `confusion`, `curves`, `errors`, ... depending on the task; and
    `temperature_scaling` with `EvalConfig.calibrate`."""
    skipped: tuple[Skipped, ...] = ()
    """Unreadable images, with the reason."""
    plan: dict[str, Any] = field(default_factory=dict)
    """The reading plan: what was read of the data, and what was passed over."""
    environment: dict[str, str] = field(default_factory=dict)
    """`date` of the evaluation, local time, and `machine`: processor, cores and threads, and the GPU if one is used."""
    notes: tuple[str, ...] = ()
    """Sentences about what was read, such as the choice among several networks of a file; not in `eval.json`."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; the tables of `details` are top-level keys."""
        return {
            "format": FORMAT,
            "metrics": self.metrics,
            "protocol": self.protocol,
            "versions": self.versions,
            "hashes": self.hashes,
            "environment": self.environment,
            **self.details,
            "skipped": [{"path": item.path, "reason": item.reason} for item in self.skipped],
            "plan": self.plan,
        }


def evaluate(
    model: str | Path | TaskNetwork,
    data: str | Path,
    config: EvalConfig = DEFAULT_CONFIG,
    *,
    on_images: Callable[[int], None] = lambda images: None,
) -> EvalResult:
    """Evaluate a network on the validation images of a data set.

    Args:
        model: a run folder, a checkpoint, an exported file, a published name, or a network, which is not changed.
        data: an embedded set, or a folder in a format of the network's task. Classes are matched by name, by ImageNet's
            synset, by COCO's category id, or by `class_map`; the notes say so.
        config: how to evaluate, and what to write.
        on_images: called with the number of images after each batch, to show progress.

    Raises:
        ConfigError: settings contradict the network or the machine; or an output file would replace an input, or
            cannot be written.
        DataError: the data cannot be used, or has classes that the network does not have.
        NotFoundError, WeightsError: the network cannot be loaded.
    """
    check_type(model, str | Path | TaskNetwork, "model", "a network, a run folder, a weight file or a published name")
    check_type(data, str | Path, "data", "a folder, or the name of an embedded set")
    check_type(config, EvalConfig, "config", "a twins.EvalConfig")
    file = _weights_file(model, data, config)
    network = _eval_network(model, file, config)
    spec, source = spec_of(network.task), data_config(model, str(data), config)
    splits = spec.open(source)
    images = splits.select(config.part)
    relabelled, match = match_classes(spec, images, network, config.class_map)
    relabelled = in_channels(relabelled, network.info.in_chans)
    left_out = spec.left_out(images, match.class_ids) if None in match.class_ids else ""
    metric = spec.metric(match.names, full=True, absent=config.absent)
    writer = CocoResultsFile(config.results, network.task, images, match)
    fit = TemperatureFit() if config.calibrate else None

    def on_batch(predictions: list[Prediction], targets: Any) -> None:
        writer.add(predictions, targets)
        if fit is not None:
            fit.update(predictions, targets)

    inference_network = inference_form(network, compile=config.compile)
    losses = HeldOutLosses(spec.loss_targets) if network.has_losses else None
    predicted_batches = count_images(_predict(inference_network, spec, relabelled, config, losses), on_images)
    skipped = measure(predicted_batches, metric, on_batch=on_batch)
    _check_skipped(skipped, len(relabelled), config.max_skipped)
    result = EvalResult(
        metrics=metric.compute() | (losses.compute() if losses else {}),
        protocol=_protocol(network, str(data), splits, images)
        | {"images": len(relabelled) - len(skipped), "skipped": len(skipped), "images_in_data": splits.count}
        | spec.protocol(network, config, source)
        | _inference_settings(network, config.inference)
        | _class_matching(match, config.class_map, left_out),
        versions=versions(),
        hashes={"weights": sha256(file) if file else None, "images": _hash_images(images)},
        details=metric.details() | ({"temperature_scaling": fit.result()} if fit is not None else {}),
        skipped=tuple(skipped),
        plan=splits.plan.to_dict(),
        environment=_environment(network),
        notes=(
            *_run_notes(model, file),
            *_weights_notes(network),
            *splits.plan.short(),
            *splits.notes,
            *_matching_notes(match, left_out),
            *share_notes(model, splits, images, source),
        ),
    )
    check_measured(result.metrics, facts_of(network.task).monitor, len(relabelled))
    writer.write()
    if fit is not None:
        result = replace(result, notes=(*result.notes, *_apply_temperature(file, result)))
    if config.out is not None:
        write_json(config.out, result.to_dict())
    return result


def _environment(network: TaskNetwork) -> dict[str, str]:
    """Return when and where an evaluation ran."""
    machine = describe_machine(str(network.device))
    return {"date": datetime.now().strftime("%Y-%m-%d %H:%M"), "machine": machine}


def _apply_temperature(file: Path | None, result: EvalResult) -> tuple[str, str]:
    """Save the fitted temperature in the weight file, if there is one, and return sentences on what it changes."""
    fit = result.details["temperature_scaling"]
    temperature, before, after = fit["temperature"], fit["before"], fit["after"]
    saved = "is not saved, as the network has no file"
    if file is not None:
        save_temperature(file, temperature)
        saved = f"is saved in {file}: predictions are scaled with it from now on, in an unchanged order"
    return (
        f"the temperature {temperature:.3g}, fitted to {number_of(fit['images'], 'image')}, {saved}",
        f"judged on images that it was not fitted to ({fit['folds']} folds), it changes the calibration error from "
        f"{100 * before['ece']:.2f} to {100 * after['ece']:.2f} % and the negative log-likelihood from "
        f"{before['nll']:.4f} to {after['nll']:.4f}; the metrics below are without it",
    )


def _weights_file(model: str | Path | TaskNetwork, data: str | Path, config: EvalConfig) -> Path | None:
    """Return the weight file of a network, if any; raise ConfigError if an output would replace an input."""
    file = None
    if isinstance(model, str | Path):
        file = Path(model) if is_exported_file(model) else resolve(weights_of(model))
    inputs = [("the network's weights", file), *parts_of(str(model))] if file is not None else []
    inputs += [("the map of class names", config.class_map)] if config.class_map else []
    outputs = {"out": config.out, "results": config.results}
    check_outputs(outputs, inputs, data=None if str(data) in EMBEDDED else data)
    return file


def _eval_network(model: str | Path | TaskNetwork, file: Path | None, config: EvalConfig) -> TaskNetwork:
    """Return a copy of the network in eval mode, on its device, with the settings of the evaluation."""
    if isinstance(model, str | Path) and is_exported_file(model):
        return _exported_network(model, config)
    if isinstance(model, str | Path):
        network = model_from_checkpoint(str(file), weights_key=config.weights_key)
    elif config.weights_key is not None:
        raise ConfigError(f"`weights_key={config.weights_key}` chooses a network of a file; leave it out for a network")
    else:
        check_finite(model.state_dict(), "the network")
        network = deepcopy(model)
    network = with_padding(network, config.padding).eval().to(pick_device(config.device))
    preprocess = _override_preprocess(network.info.preprocess, config.size, config.crop)
    network.info = replace(network.info, preprocess=preprocess)
    check_inference(network, config.inference)
    if config.calibrate:
        if not facts_of(network.task).calibration:
            tasks = " and ".join(tasks_with("calibration"))
            raise ConfigError(f"`calibrate` is for {tasks}, found a network for {network.task}; leave it out")
        check_holds_temperature(file)
        network.info = replace(network.info, temperature=1.0)
    return set_selection(network, None if config.selection == SelectionConfig() else config.selection)


def _exported_network(path: str | Path, config: EvalConfig) -> TaskNetwork:
    """Return an exported file as a network; raise ConfigError for settings that only checkpoints have."""
    default = EvalConfig()
    check_device(path, config.device)
    for name in ("size", "crop", "padding", "weights_key", "compile", "calibrate"):
        if getattr(config, name) != getattr(default, name):
            raise ConfigError(f"`{name}` is for checkpoints, {path} is an exported file; leave it out")
    network = load_exported(path)
    check_inference(network, config.inference)
    return set_selection(network, None if config.selection == SelectionConfig() else config.selection)


def match_classes(
    spec: TaskSpec, images: Any, network: TaskNetwork, class_map: str | None = None
) -> tuple[Any, ClassMatch]:
    """Return the images relabelled with the network's class ids, and how the classes were matched.

    Raises:
        DataError: the network does not have one of the classes, or `class_map` cannot be used.
        NotFoundError: there is no file `class_map`.
    """
    match = match_names(
        images.names,
        network.info.names,
        network.num_classes,
        values=getattr(getattr(images, "classes", None), "values", None),
        table=facts_of(network.task).class_table,
        class_map=None if class_map is None else read_class_map(Path(class_map)),
    )
    return spec.relabel(images, match.class_ids), match


def _inference_settings(network: TaskNetwork, inference: InferenceConfig) -> dict[str, Any]:
    """Return the protocol's entry on the inference settings of the network's task."""
    names = facts_of(network.task).inference
    return {"inference": {name: getattr(inference, name) for name in names}} if names else {}


def _class_matching(match: ClassMatch, class_map: str | None, left_out: str) -> dict[str, Any]:
    """Return the protocol's entry on classes that were not matched by equal names."""
    if match.by == "name":
        return {}
    file = {"file": class_map, "left_out": left_out or "nothing"} if class_map else {}
    return {"class_matching": {"by": match.by, **file}}


def _matching_notes(match: ClassMatch, left_out: str) -> list[str]:
    return [match.note + (f"; left out: {left_out}" if left_out else "")] if match.note else []


def with_padding(network: TaskNetwork, padding: str | None) -> TaskNetwork:
    """Return the network with another `padding`; its backbone is rebuilt with the same weights."""
    if padding is None or padding == network.info.padding:
        return network
    backbone = create_backbone(
        network.info.model, padding=padding, stage_norms=network.info.stage_norms, in_chans=network.info.in_chans
    )
    backbone.load_state_dict(network.backbone.state_dict())
    network.backbone, network.info = backbone, replace(network.info, padding=padding)
    return network


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the metrics depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _predict(
    network: TaskNetwork, spec: TaskSpec, images: ImageSet, config: EvalConfig, losses: HeldOutLosses | None
) -> Iterator[PredictedBatch]:
    """Yield the batches of a data set with their predictions; several passes over an image have no losses."""
    if not config.inference.plain:
        return _predict_singly(network, spec, images, config.inference)
    batch = config.batch_size or facts_of(network.task).batch_size
    samples = EvalSamples(images, spec.eval_transform(network.info.preprocess))
    shapes = spec.shapes(images)
    batches = partial(eval_loader, samples, batch=batch, workers=config.workers, shapes=shapes)
    return predict_batches(network, batches, losses=losses)


def _predict_singly(
    network: TaskNetwork, spec: TaskSpec, images: ImageSet, inference: InferenceConfig
) -> Iterator[PredictedBatch]:
    for index in range(len(images)):
        batch = Batch(images=torch.empty(0), targets=[], indices=[index], originals=[])
        try:
            image, target = images.load(index), images.target(index)
            spec.check_pair(image, target)
        except (DataError, NotFoundError) as error:
            yield [], replace(batch, skipped=[Skipped(images.path(index), str(error))])
            continue
        yield [spec.infer(network, image, inference)], replace(batch, targets=stack_targets([target]))


def _override_preprocess(preprocess: Preprocess, size: int | None, crop: float | None) -> Preprocess:
    if crop is not None and preprocess.fit == "keep":
        raise ConfigError("`crop` is for classifiers; a dense network sees the whole image")
    changes = {"size": size, "crop": crop}
    if size is not None and preprocess.fit == "keep":
        changes["longest"] = max(preprocess.longest, round(preprocess.longest * size / preprocess.size))
    return replace(preprocess, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def _run_notes(model: str | Path | TaskNetwork, file: Path | None) -> list[str]:
    """Return which of a run's weights are measured."""
    if file is None or not isinstance(model, str | Path) or not os.path.isdir(model):
        return []
    return [weights_note(model, averaged=bool(run_config(model).ema_decay))]


def _weights_notes(network: TaskNetwork) -> list[str]:
    temperature = network.info.temperature
    scaled = f"the scores are scaled with the temperature {temperature:.3g}, which `calibrate` has saved"
    notes = [network.load_report.note] if network.load_report and network.load_report.note else []
    return notes if temperature == 1.0 else [*notes, scaled]


def _protocol(network: TaskNetwork, data: str, splits: Splits[Any], images: ImageSet) -> dict[str, Any]:
    head = {"head": network.info.head} if network.info.head else {}
    report = network.load_report
    key = {"weights_key": report.key} if report and report.others else {}
    return {
        "task": network.task,
        "model": network.info.model,
        **key,
        **head,
        "padding": network.info.padding,
        **network.info.preprocess.to_dict(),
        "precision": network.precision,
        "device": network.device.type,
        "data": data,
        "split": next((name for name, part in splits.parts.items() if part is images), "all"),
    }


def _hash_images(images: ImageSet) -> str:
    """Return a hash of the class names and of the images' names."""
    lines = [*images.names, *("/".join(Path(images.path(index)).parts[-2:]) for index in range(len(images)))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_skipped(skipped: Sequence[Skipped], count: int, max_share: float) -> None:
    if skipped and len(skipped) > max_share * count:
        path, reason = skipped[0].path, skipped[0].reason
        raise DataError(
            f"{len(skipped)} of {number_of(count, 'image')} cannot be read, more than the share of {max_share:g} "
            "that leaves the numbers honest; repair or remove them, first: "
            f"{reason if path in reason else f'{path}: {reason}'}"
        )
