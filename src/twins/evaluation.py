"""Measuring a network on a data set, with everything that the numbers depend on beside them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twins.data.base import ImageSet
from twins.data.config import EMBEDDED, DataConfig, MaskConfig
from twins.data.loading.batch import Batch, Skipped
from twins.data.loading.loader import EvalSamples, eval_loader
from twins.data.transforms.semantic import check_fit
from twins.engine.config import TrainConfig, read_config
from twins.engine.measure import check_measured, measure, predictions
from twins.errors import ConfigError, DataError, NotFoundError, few
from twins.factory import TaskNetwork, create_backbone, model_from_checkpoint
from twins.files import atomic_file, check_outputs, sha256, write_json
from twins.metrics.coco_results import coco_results
from twins.metrics.semantic import Absent
from twins.predictions import Prediction
from twins.predictor import check_inference, choose, pick_device
from twins.preprocess import Preprocess
from twins.run_folder import CONFIG, parts_of, weights_of
from twins.tasks.contract import Kit
from twins.tasks.detection.network import Detection
from twins.tasks.inference import InferenceConfig, SelectionConfig
from twins.tasks.instance.network import InstanceSegmentation
from twins.tasks.semantic.inference import look
from twins.tasks.semantic.network import SemanticSegmentation
from twins.tasks.table import kit_of
from twins.weights.store import resolve

FORMAT = 1
"""Version of the dictionary that `evaluate` returns."""
PACKAGES = ("twins-vision", "torch", "torchvision", "timm", "faster-coco-eval", "pillow", "numpy")
Measured = tuple[list[Prediction], Batch]
"""Predictions of a batch, and the batch."""


def evaluate(
    model: str | Path | TaskNetwork,
    data: str | Path,
    *,
    out: str | Path | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    device: str | torch.device = "auto",
    size: int | None = None,
    crop: float | None = None,
    padding: str | None = None,
    seed: int | None = None,
    val_share: float | None = None,
    masks: MaskConfig | None = None,
    inference: InferenceConfig | None = None,
    selection: SelectionConfig | None = None,
    results: str | Path | None = None,
    absent: Absent = "left_out",
    max_skipped: float = 0.05,
) -> dict[str, Any]:
    """Measure a network on a data set's held-out images.

    Args:
        model: a run folder, a checkpoint, a published name, or a network.
        data: an embedded set or a folder, as the network's task takes it. Classes are matched by name.
        out: where to write the result as JSON.
        batch_size: images per forward pass; `None` is 32, or 4 for a dense network.
        workers: loading processes.
        device: `auto`, `cpu`, `cuda` or `mps`, or a torch device.
        size: side of the input in pixels (of a dense network the shorter side, with which the bound on the longer one
            grows); `None` is the network's own, as for `crop` and `padding`.
        crop: share of the shorter side that a classifier's centre crop keeps.
        padding: `exact`, `reference` or `unmasked`.
        seed: chooses what is held out of unsplit data; `None` is as the run did, or 0 where there is no run.
        val_share: share held out of unsplit data; `None` is as the run did, or 0.2 where there is no run.
        masks: how masks are read; what is left at its default is as the run did.
        inference: how a semantic network looks at images; `None` is once, whole.
        selection: which of the objects that a detector finds are counted; `None` is as published.
        results: where to write what a detector finds, as a COCO results file.
        absent: what a class counts in the mean over classes that neither truth nor prediction has.
        max_skipped: share of unreadable images above which the numbers would mislead.

    Returns:
        `metrics` (shares in 0..1), `protocol`, `versions`, `hashes`, `per_class`, `confusion`, `skipped`, and what
        else the task's metric says.

    Raises:
        ConfigError: settings that contradict the network or the machine, or a file to write that would take the place
            of what is read, or cannot be made.
        DataError: the data cannot be used, or its classes are not the network's.
        NotFoundError, WeightsError: the network cannot be had.
    """
    _check_loading(batch_size, workers)
    file = _weights_file(model, data, {"--out": out, "--results": results})
    network = _network(model, file, padding, size, crop).to(pick_device(device))
    inference = check_inference(network, inference)
    choose(network, selection)
    kit, source = kit_of(network.task), _data_config(model, str(data), seed, val_share, masks)
    images = kit.open(source).val
    matched, names = match_classes(kit, images, network)
    metric = kit.metric(names, full=True, absent=absent)
    writer = _Results(results, network, images, names)
    measured = _measure(network, kit, matched, inference, batch_size or _usual_batch(network), workers)
    skipped = measure(measured, metric, each=writer.add)
    _check_skipped(skipped, len(images), max_skipped)
    protocol = _protocol(network, str(data), len(images), len(skipped)) | _looked(network, source, inference, absent)
    hashes = {"weights": sha256(file) if file else None, "images": _listing(images)}
    result = _result(metric, protocol, hashes, skipped)
    check_measured(result["metrics"], kit.leading, len(images))
    writer.write()
    if out is not None:
        write_json(out, result)
    return result


def _weights_file(
    model: str | Path | TaskNetwork, data: str | Path, outputs: dict[str, str | Path | None]
) -> Path | None:
    """Return the file that a network's weights come from; raises ConfigError where an output would replace an input."""
    file = None if isinstance(model, nn.Module) else resolve(weights_of(model))
    parts = [] if file is None else [("the network's weights", file), *parts_of(str(model))]
    check_outputs(outputs, parts, data=None if str(data) in EMBEDDED else data)
    return file


def _network(
    model: str | Path | TaskNetwork, file: Path | None, padding: str | None, size: int | None, crop: float | None
) -> TaskNetwork:
    """Return a network of our own in evaluation mode, that given or that of a file, with what is said of its input."""
    network = deepcopy(model) if isinstance(model, nn.Module) else model_from_checkpoint(str(file))
    network = with_padding(network, padding).eval()
    network.info = replace(network.info, preprocess=_settings(network.info.preprocess, size, crop))
    return network


def _result(
    metric: Any, protocol: dict[str, Any], hashes: dict[str, Any], skipped: Sequence[Skipped]
) -> dict[str, Any]:
    """Return what `evaluate` returns."""
    return {
        "format": FORMAT,
        "metrics": metric.compute(),
        "protocol": protocol,
        "versions": versions(),
        "hashes": hashes,
        **metric.details(),
        "skipped": [{"path": item.path, "reason": item.reason} for item in skipped],
    }


def match_classes(kit: Kit, images: Any, network: TaskNetwork) -> tuple[Any, tuple[str, ...]]:
    """Return images whose class ids are the network's, matched by name, and the names.

    Raises:
        DataError: a class that the network does not know.
    """
    names = network.info.names
    if not names and len(images.names) != network.num_classes:
        raise DataError(
            f"the data has {len(images.names)} classes, the network {network.num_classes} without names; "
            "evaluate it on its own classes"
        )
    names = names or tuple(images.names)
    if unknown := [name for name in images.names if name not in names]:
        raise DataError(
            f"the network does not know the data's classes {few(unknown)}; it knows {few(list(names))}; "
            "measure it on data of its own classes"
        )
    return kit.relabel(images, [names.index(name) for name in images.names]), names


def with_padding(network: TaskNetwork, padding: str | None) -> TaskNetwork:
    """Return the network with another treatment of borders; the weights are shared."""
    if padding is None or padding == network.info.padding:
        return network
    backbone = create_backbone(
        network.info.model, padding=padding, stage_norms=network.info.stage_norms, in_chans=network.info.in_chans
    )
    backbone.load_state_dict(network.backbone.state_dict())
    network.backbone, network.info = backbone, replace(network.info, padding=padding)
    return network


def versions() -> dict[str, str]:
    """Return the versions that numbers can depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _check_loading(batch_size: int | None, workers: int) -> None:
    """Raise ConfigError for batches or loading processes that cannot be."""
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, found {batch_size}")
    if workers < 0:
        raise ConfigError(f"--workers must be at least 0, found {workers}")


def _usual_batch(network: TaskNetwork) -> int:
    return 32 if network.task == "classification" else 4


def _looked(network: TaskNetwork, source: DataConfig, inference: InferenceConfig, absent: Absent) -> dict[str, Any]:
    """Return what of the protocol is a task's own."""
    if isinstance(network, SemanticSegmentation):
        return {"masks": asdict(source.masks), "inference": asdict(inference), "absent_classes": absent}
    return {"selection": asdict(network.inference)} if isinstance(network, Detection | InstanceSegmentation) else {}


def _measure(
    network: TaskNetwork, kit: Kit, images: ImageSet, inference: InferenceConfig, batch_size: int, workers: int
) -> Iterator[Measured]:
    """Yield a set's batches with their predictions."""
    if not inference.plain:
        assert isinstance(network, SemanticSegmentation)
        return _one_by_one(network, images, inference)
    samples = EvalSamples(images, kit.eval_transform(network.info.preprocess))
    shapes = kit.shapes(images)
    return predictions(network, lambda: eval_loader(samples, batch=batch_size, workers=workers, shapes=shapes))


def _one_by_one(network: SemanticSegmentation, images: ImageSet, inference: InferenceConfig) -> Iterator[Measured]:
    for index in range(len(images)):
        batch = Batch(images=torch.empty(0), targets=[], indices=[index], originals=[])
        try:
            image, target = images.load(index), images.target(index)
            check_fit(image, target)
        except (DataError, NotFoundError) as error:
            yield [], replace(batch, skipped=[Skipped(images.path(index), str(error))])
            continue
        yield [look(network, image, inference)], replace(batch, targets=[target])


class _Results:
    """What a detector finds, gathered for a COCO results file where one is asked for.

    Raises:
        ConfigError: one is asked of a network that finds no objects.
    """

    def __init__(self, path: str | Path | None, network: TaskNetwork, images: ImageSet, names: Sequence[str]) -> None:
        self.path = path
        if path is None:
            return
        if not isinstance(network, Detection | InstanceSegmentation):
            raise ConfigError(f"--results is for detectors, found a network for {network.task}")
        ids = dict(zip(images.names, images.classes.values, strict=True))  # type: ignore[attr-defined]
        self.category_ids = [ids.get(name) for name in names]
        self.entries: list[dict[str, Any]] = []

    def add(self, predictions: Sequence[Prediction], targets: Sequence[Any]) -> None:
        if self.path is None:
            return
        for prediction, target in zip(predictions, targets, strict=True):
            self.entries += coco_results(prediction, image_id=target.image_id, category_ids=self.category_ids)

    def write(self) -> None:
        if self.path is None:
            return
        with atomic_file(Path(self.path)) as beside:
            beside.write_text(json.dumps(self.entries) + "\n")


def _data_config(
    model: str | Path | nn.Module, data: str, seed: int | None, val_share: float | None, masks: MaskConfig | None
) -> DataConfig:
    """Return how data is read: as a run did, so that it is measured on what it held out, unless said otherwise."""
    config = Path(model) / CONFIG if isinstance(model, str | Path) else None
    run = read_config(config) if config is not None and config.is_file() else TrainConfig()
    return DataConfig(
        data=data,
        seed=run.seed if seed is None else seed,
        val_share=run.val_share if val_share is None else val_share,
        masks=_anew(masks or MaskConfig(), run.masks),
    )


def _anew(given: MaskConfig, known: MaskConfig) -> MaskConfig:
    """Return how a run read masks, with what is given anew; a setting at its default counts as not given."""
    default, values = asdict(MaskConfig()), asdict(given)
    return replace(known, **{name: value for name, value in values.items() if value != default[name]})


def _settings(preprocess: Preprocess, size: int | None, crop: float | None) -> Preprocess:
    if crop is not None and preprocess.fit == "keep":
        raise ConfigError("--crop is for classifiers; a dense network sees the whole image")
    given = {"size": size, "crop": crop}
    if size is not None and preprocess.fit == "keep":
        given["longest"] = max(preprocess.longest, round(preprocess.longest * size / preprocess.size))
    return replace(preprocess, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _protocol(network: TaskNetwork, data: str, count: int, skipped: int) -> dict[str, Any]:
    parameter = next(network.parameters())
    head = {"head": network.info.head} if network.info.head else {}
    return {
        "task": network.task,
        "model": network.info.model,
        **head,
        "padding": network.info.padding,
        **network.info.preprocess.to_dict(),
        "precision": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "data": data,
        "split": "val",
        "images": count - skipped,
        "skipped": skipped,
    }


def _listing(images: ImageSet) -> str:
    """Return a hash of the images' names and the classes."""
    lines = [*images.names, *("/".join(Path(images.path(index)).parts[-2:]) for index in range(len(images)))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_skipped(skipped: Sequence[Skipped], count: int, most: float) -> None:
    if not 0.0 <= most <= 1.0:
        raise ConfigError(f"max_skipped must be between 0 and 1, found {most}")
    if skipped and len(skipped) > most * count:
        path, reason = skipped[0].path, skipped[0].reason
        raise DataError(
            f"{len(skipped)} of {count} images cannot be read, more than the share of {most:g} that leaves the numbers "
            f"honest; mend or remove them, first: {reason if path in reason else f'{path}: {reason}'}"
        )
