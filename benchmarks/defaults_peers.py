"""The peers of `defaults.py`: timm's and torchvision's networks, trained by one plain loop and measured by our metrics.

Images, augmentation, batches and learning rates come from our loaders and schedules; network, loss and decoding are the
peer's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from detectors import _predict as predict_objects
from detectors import _theirs as to_torchvision
from nuclei import _predict as predict_map
from torch import Tensor, nn
from training import build_optimizer

from twins.data.base import Splits
from twins.data.formats.masks import IGNORE
from twins.data.loading.batch import Batch, normalise_batch
from twins.data.loading.loader import TrainSamples, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.engine.config import TrainConfig
from twins.engine.schedule import scheduled_rate
from twins.predictions import Prediction
from twins.preprocess import Preprocess
from twins.tasks.contract import spec_of
from twins.tasks.table import facts_of

NAMES = {
    "classification": "resnet18 (timm)",
    "semantic": "lraspp_mobilenet_v3_large",
    "detection": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "instance": "maskrcnn_resnet50_fpn",
}
"""Network of each task."""
BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "classification": lambda classes: timm.create_model("resnet18", num_classes=classes),
    "semantic": lambda classes: torchvision.models.mobilenet_v3_large(num_classes=classes),
    "detection": lambda classes: torchvision.models.mobilenet_v3_large(num_classes=classes),
    "instance": lambda classes: torchvision.models.resnet50(num_classes=classes),
}
"""Classifier with the backbone of each task's peer."""


def build(task: str, classes: int, classifier: Path | None) -> nn.Module:
    """Return a peer with random weights, or with the backbone of a classifier of `save_classifier`."""
    if task == "classification":
        network, body = BACKBONES[task](classes), ""
    elif task == "semantic":
        network, body = _segmentation(classes), "backbone."
    else:
        create = getattr(torchvision.models.detection, NAMES[task])
        network = create(weights=None, weights_backbone=None, num_classes=classes + 1, _skip_resize=True)
        body = "backbone.body."
    if classifier is not None:
        _load_backbone(network, body, torch.load(classifier, weights_only=True))
    return network


def _segmentation(classes: int) -> nn.Module:
    network: nn.Module = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=classes
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # torchvision's 0.01 is too slow for so few steps
    return network


def _load_backbone(network: nn.Module, body: str, tensors: dict[str, Tensor]) -> None:
    """Load a classifier's weights into the backbone whose names begin with `body`."""
    own = network.state_dict()
    named = {body + name.removeprefix("features."): tensor for name, tensor in tensors.items()}
    fitting = {name: value for name, value in named.items() if name in own and own[name].shape == value.shape}
    backbone = [name for name in own if name.startswith(body) and not name.startswith(("fc.", "backbone.fpn."))]
    missing = [name for name in backbone if name not in fitting]
    assert not missing, missing[:3]
    network.load_state_dict(fitting, strict=False)


class Training:
    """A peer's training: `run` takes steps, `score` measures.

    Args:
        config: settings; `steps` is the length.
        optimizer: `sgd`, or `adamw` with the settings of `config`.
        network: the peer.
    """

    def __init__(self, config: TrainConfig, optimizer: str, network: nn.Module) -> None:
        torch.manual_seed(config.seed)
        self.config, self.network, self.spec = config, network.train(), spec_of(config.task)
        self.splits: Splits[Any] = self.spec.open(config.source)
        preprocess: Preprocess = self.spec.preprocess(config, facts_of(config.task).preprocess)
        if facts_of(config.task).selection:  # torchvision's detectors normalise
            preprocess = replace(preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.preprocess = preprocess
        self.optimizer: torch.optim.Optimizer = build_optimizer(network, config.optimizer)
        if optimizer == "sgd":
            decay = config.optimizer.weight_decay
            self.optimizer = torch.optim.SGD(network.parameters(), lr=config.lr, momentum=0.9, weight_decay=decay)

    def batches(self) -> Iterator[Batch]:
        """Yield training batches without end."""
        images, config = self.splits.train, self.config
        samples = TrainSamples(images, self.spec.train_transform(config, self.preprocess), seed=config.seed)
        order = TrainBatches(len(images), config.batch_size, seed=config.seed, shapes=self.spec.shapes(images))
        return train_loader(samples, order, step=0, workers=config.workers, pin=False)

    def run(self, steps: int) -> list[float]:
        """Train for a number of steps; return the seconds of each."""
        seconds, started = [], time.perf_counter()
        for step, batch in enumerate(islice(self.batches(), steps)):
            for group in self.optimizer.param_groups:
                group["lr"] = scheduled_rate(self.config, step / (self.config.steps or steps))
            loss = self._loss(normalise_batch(batch, self.preprocess, torch.device("cpu")))
            if math.isfinite(loss.item()):
                torch.autograd.backward(loss)
                if self.config.optimizer.clip_grad and not isinstance(self.optimizer, torch.optim.SGD):
                    nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip_grad)
                self.optimizer.step()
            self.optimizer.zero_grad()
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            if step % 50 == 0:
                print(f"step {step}, loss {loss.item():.4f}", flush=True)
        return seconds

    def _loss(self, batch: Any) -> Tensor:
        images, targets = self.spec.prepare_batch(self.config, batch, 0, len(self.splits.train.names))
        if self.config.task == "classification":
            return F.cross_entropy(self.network(images), targets, label_smoothing=self.config.augment.smoothing)
        if self.config.task == "semantic":
            return F.cross_entropy(self.network(images)["out"], targets.long(), ignore_index=IGNORE)
        loss: Tensor = sum(self.network(*to_torchvision(images, batch.sizes, targets)).values(), torch.zeros(()))
        return loss

    def score(self) -> dict[str, float]:
        """Return the metrics of the held-out images."""
        self.network.eval()
        images, metric = self.splits.val, self.spec.metric(self.splits.train.names)
        for index in range(len(images)):
            target = images.target(index)
            targets = torch.tensor([target]) if self.config.task == "classification" else [target]
            metric.update([self.predict(images.load(index))], targets)
        return metric.compute()

    def predict(self, image: Any) -> Prediction:
        """Return the prediction of an image."""
        task, names = self.config.task, self.splits.train.names
        if task == "semantic":
            return replace(predict_map(self.network, self.preprocess, image), names=names)
        if task != "classification":
            return predict_objects(self.network, self.preprocess, image, task, names)
        with torch.inference_mode():
            scores = self.network(self.preprocess(image)[None])[0].softmax(0).numpy()
        order = np.argsort(-scores)
        size = (image.height, image.width)
        return Prediction(task=task, size=size, names=names, labels=order, scores=scores[order])


def save_classifier(config: TrainConfig, task: str, file: Path) -> None:
    """Train a classifier with the backbone of a task's peer, and save its weights."""
    classes = len(spec_of("classification").open(config.source).train.names)
    torch.manual_seed(config.seed)
    training = Training(config, "adamw", BACKBONES[task](classes))
    assert config.steps
    training.run(config.steps)
    print(f"classifier for {task} on {config.data}: {training.score()}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(training.network.state_dict(), file)
