"""Measuring a classifier on a data set, with everything that the numbers depend on beside them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from twins.backbone.network import Twins
from twins.data.dataset import LabelledImages, open_classification
from twins.data.loader import Batch, EvalSamples, Skipped, eval_loader
from twins.data.preprocess import Preprocess
from twins.engine.config import CONFIG, TrainConfig, read_config
from twins.errors import ConfigError, DataError
from twins.factory import classifier_from_checkpoint, create_backbone
from twins.metrics.classification import ClassificationMetric
from twins.predictor import pick_device, weights_of
from twins.tasks.classification import Classification
from twins.weights.files import atomic_file, sha256
from twins.weights.store import resolve

FORMAT = 1
"""Version of the dictionary that `evaluate` returns."""
PACKAGES = ("twins-vision", "torch", "torchvision", "timm", "pillow", "numpy")


def evaluate(
    model: str | Path | Classification,
    data: str | Path,
    *,
    out: str | Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    size: int | None = None,
    crop: float | None = None,
    padding: str | None = None,
    seed: int | None = None,
    val_share: float | None = None,
    max_skipped: float = 0.05,
) -> dict[str, Any]:
    """Measure a classifier on a data set's held-out images.

    Args:
        model: a run folder, a checkpoint, a published name, or a network.
        data: `digits` or a folder; see `open_classification`. Classes are matched by name.
        out: where to write the result as JSON.
        batch_size: images per forward pass.
        workers: loading processes.
        device: `auto`, `cpu`, `cuda` or `mps`.
        size: side of the input in pixels; `None` is the network's own, as for `crop` and `padding`.
        crop: share of the shorter side that the centre crop keeps.
        padding: `exact`, `reference` or `unmasked`.
        seed: chooses what is held out of an unsplit folder; `None` is as the run did, or 0 where there is no run.
        val_share: share held out of an unsplit folder; `None` is as the run did, or 0.2 where there is no run.
        max_skipped: share of unreadable images above which the numbers would mislead.

    Returns:
        `metrics` (shares in 0..1), `protocol`, `versions`, `hashes`, `per_class`, `confusion`, `calibration`,
        `skipped`.

    Raises:
        ConfigError: settings that contradict the network or the machine.
        DataError: the data cannot be used, or its classes are not the network's.
        NotFoundError, WeightsError: the network cannot be had.
    """
    file = None if isinstance(model, Classification) else resolve(weights_of(model))
    network = model if isinstance(model, Classification) else classifier_from_checkpoint(str(file))
    network = with_padding(network, padding).to(pick_device(device)).eval()
    preprocess = _settings(network.info.preprocess, size, crop)
    split = _split_of(model)
    seed, val_share = split[0] if seed is None else seed, split[1] if val_share is None else val_share
    images = open_classification(data, seed=seed, val_share=val_share).val
    matched = Relabelled(images, network.info.names, network.num_classes)
    loader = eval_loader(EvalSamples(matched, preprocess), batch=batch_size, workers=workers)
    metric, skipped = measure(network, loader, matched.names)
    _check_skipped(skipped, len(images), max_skipped)
    result = {
        "format": FORMAT,
        "metrics": metric.compute(),
        "protocol": _protocol(network, preprocess, data, len(images), len(skipped)),
        "versions": versions(),
        "hashes": {"weights": sha256(file) if file else None, "images": _listing(images)},
        **metric.details(),
        "skipped": [{"path": item.path, "reason": item.reason} for item in skipped],
    }
    if out is not None:
        write_json(out, result)
    return result


def measure(
    network: Classification, batches: Iterable[Batch] | DataLoader[Any], names: tuple[str, ...]
) -> tuple[ClassificationMetric, list[Skipped]]:
    """Run a network over batches and count; returns the metric and the images that could not be read."""
    metric = ClassificationMetric(names)
    skipped: list[Skipped] = []
    reference = next(network.parameters())
    for batch in batches:
        skipped += batch.skipped
        if batch.indices:
            with torch.inference_mode():
                outputs = network(batch.images.to(reference))
            metric.update(network.decode(outputs, None, batch.originals), batch.targets)
    return metric, skipped


class Relabelled:
    """A data set whose class ids are the network's, matched by name.

    Raises:
        DataError: a class that the network does not know.
    """

    def __init__(self, images: LabelledImages, names: tuple[str, ...], num_classes: int) -> None:
        self.images = images
        if not names and len(images.names) != num_classes:
            raise DataError(
                f"the data has {len(images.names)} classes, the network {num_classes} without names; "
                "evaluate it on its own classes"
            )
        self.names = names or images.names
        if unknown := [name for name in images.names if name not in self.names]:
            raise DataError(
                f"the network does not know the data's classes {_few(unknown)}; it knows {_few(list(self.names))}"
            )
        self.labels = [self.names.index(images.names[label]) for label in images.labels]

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Any:
        """Return an image; raises DataError where it cannot be read."""
        return self.images.load(index)

    def path(self, index: int) -> str:
        """Return what to call an image."""
        return self.images.path(index)


def with_padding(network: Classification, padding: str | None) -> Classification:
    """Return the network with another treatment of borders; the weights are shared."""
    if padding is None or padding == network.info.padding:
        return network
    backbone: Twins = create_backbone(
        network.info.model, padding=padding, stage_norms=network.info.stage_norms, in_chans=network.info.in_chans
    )
    backbone.load_state_dict(network.backbone.state_dict())
    network.backbone, network.info = backbone, replace(network.info, padding=padding)
    return network


def versions() -> dict[str, str]:
    """Return the versions that numbers can depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write JSON in one atomic step.

    Raises:
        WeightsError: there is no such folder.
        TrainingError: the disk is full or refuses.
    """
    with atomic_file(Path(path)) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _split_of(model: str | Path | Classification) -> tuple[int, float]:
    """Return the seed and the share by which a run held images out, so that it is measured on those."""
    config = Path(model) / CONFIG if isinstance(model, str | Path) else None
    run = read_config(config) if config is not None and config.is_file() else TrainConfig()
    return run.seed, run.val_share


def _settings(preprocess: Preprocess, size: int | None, crop: float | None) -> Preprocess:
    return replace(preprocess, size=size or preprocess.size, crop=crop if crop is not None else preprocess.crop)


def _protocol(
    network: Classification, preprocess: Preprocess, data: str | Path, count: int, skipped: int
) -> dict[str, Any]:
    parameter = next(network.parameters())
    return {
        "task": network.task,
        "model": network.info.model,
        "padding": network.info.padding,
        **preprocess.to_dict(),
        "precision": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "data": str(data),
        "split": "val",
        "images": count - skipped,
        "skipped": skipped,
    }


def _listing(images: LabelledImages) -> str:
    lines = "\n".join(f"{Path(images.path(i)).name} {images.names[label]}" for i, label in enumerate(images.labels))
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_skipped(skipped: list[Skipped], count: int, most: float) -> None:
    if not 0.0 <= most <= 1.0:
        raise ConfigError(f"max_skipped must be between 0 and 1, found {most}")
    if skipped and len(skipped) > most * count:
        raise DataError(
            f"{len(skipped)} of {count} images cannot be read, more than the share of {most:g} allowed; "
            f"the first: {skipped[0].reason}"
        )


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
