"""Semantic segmentation trained from scratch on a CPU: twins_svt_nano beside torchvision's small networks.

Command: python benchmarks/nuclei.py --minutes 12
The data are the Data Science Bowl's nuclei, 35 training and 11 held-out images. The classes are background, nucleus and
border; a border pixel is within two pixels (Chebyshev distance) of two different nuclei. All networks have the same
minutes, images, crops and class weights; each has the learning rate and the batch size that suit it. The last weights
are measured, so held-out images choose no weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter
from torch import Tensor, nn
from torchvision.models import segmentation
from training import Predict, Trained, build_optimizer, machine, parameters, steps_of

import twins
from twins.data.base import LabelMapImages
from twins.data.formats.masks import IGNORE
from twins.data.formats.open import open_label_maps
from twins.data.loading.batch import normalise_batch
from twins.data.loading.loader import TrainSamples, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.config import SemanticConfig
from twins.drawing import grid, overlay
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.engine.schedule import scheduled_rate
from twins.heads.resampling import resize_map
from twins.metrics.semantic import SemanticMetric
from twins.predictions import Prediction
from twins.preprocess import Preprocess
from twins.tasks.semantic.facts import FACTS
from twins.tasks.semantic.spec import SPEC, balanced_weights, count_pixels

NAMES = ("background", "nucleus", "border")
BORDER_DISTANCE = 2
"""Largest distance of a border pixel from two nuclei, in pixels."""
PEERS = {"lraspp": "lraspp_mobilenet_v3_large", "deeplab": "deeplabv3_mobilenet_v3_large"}


def our_config(data: Path, minutes: float, seed: int) -> TrainConfig:
    """Return the settings of our run."""
    return TrainConfig(
        task="semantic",
        data=str(data),
        model="twins_svt_nano",
        weights="none",
        minutes=minutes,
        seed=seed,
        size=256,
        batch_size=4,
        workers=1,
        drop_rate=0.0,
        drop_path=0.0,
        class_weights="none",
        epochs=100,  # only sets the warm-up's share of the minutes
        eval_every=1e6,  # only at the end
        optimizer=OptimizerConfig(lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98), layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(kind="poly", warmup_epochs=10, min_lr=0.0),
        semantic=SemanticConfig(crop=192, ratio=(0.75, 1.5), max_share=1.0, vflip=0.5, photometric=False),
    )


def peer_config(config: TrainConfig) -> TrainConfig:
    """Return our settings with the peers' batch size and optimiser settings."""
    return replace(config, batch_size=8, optimizer=replace(config.optimizer, lr=2e-3, betas=(0.9, 0.999)))


def prepare(source: Path, target: Path) -> None:
    """Write the data set as folders of images and masks, with its own split."""
    for part in ("train", "val"):
        entries = json.loads((source / f"instances_{part}.json").read_text())["images"]
        for kind in ("images", "masks"):
            (target / kind / part).mkdir(parents=True)
        for name in (entry["file_name"] for entry in entries):
            Image.open(source / "images" / name).convert("RGB").save(target / "images" / part / name)
            nuclei = np.asarray(Image.open(source / "instance_ids" / name)).astype(np.int32)
            Image.fromarray(classes_of(nuclei)).save(target / "masks" / part / name)
    (target / "classes.txt").write_text("\n".join(NAMES) + "\n")


def classes_of(nuclei: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return class ids `(H, W)` for a map of nucleus ids, in which 0 is background."""
    side = 2 * BORDER_DISTANCE + 1
    highest = maximum_filter(nuclei, side)
    lowest = minimum_filter(np.where(nuclei == 0, np.iinfo(np.int32).max, nuclei), side)
    return np.where((highest > 0) & (lowest != highest), 2, nuclei > 0).astype(np.uint8)


def train_ours(config: TrainConfig) -> Trained:
    """Train our network with `twins.train`."""
    start = time.perf_counter()
    run = twins.train(config)
    minutes = (time.perf_counter() - start) / 60
    predictor = twins.load(run.path, device="cpu")
    return Trained(
        name=f"{config.model}, semantic_fpn",
        predict=lambda image: predictor.predict(image)[0],
        parameters=parameters(predictor.model),
        steps=steps_of(run.path),
        batch=config.batch_size,
        minutes=minutes,
    )


def train_peer(name: str, config: TrainConfig) -> Trained:
    """Train one of torchvision's networks in a simple loop, with our crops, schedule and loss."""
    assert config.minutes
    start = time.perf_counter()
    torch.manual_seed(config.seed)
    network: nn.Module = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=len(NAMES))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # torchvision's 0.01 is too slow for so few steps
    images = open_label_maps(config.source).train
    preprocess = SPEC.preprocess(config, FACTS.preprocess)
    weights = balanced_weights(*count_pixels(images)) if config.class_weights == "balanced" else None
    samples = TrainSamples(images, SPEC.train_transform(config, preprocess), seed=config.seed)
    order = TrainBatches(len(images), config.batch_size, seed=config.seed)
    batches = train_loader(samples, order, step=0, workers=config.workers, pin=False)
    optimizer = build_optimizer(network, config.optimizer)
    network.train().to(memory_format=torch.channels_last)  # saves 10 to 25 % of a step's time
    steps = 0
    while (done := (time.perf_counter() - start) / 60 / config.minutes) < 1:
        batch = normalise_batch(next(batches), preprocess, torch.device("cpu"))
        for group in optimizer.param_groups:
            group["lr"] = scheduled_rate(config, done)
        loss = _loss(network(batch.images.to(memory_format=torch.channels_last))["out"], batch.targets, weights)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_grad or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if steps % 100 == 0:
            print(f"{name}: step {steps}, loss {loss.item():.4f}", flush=True)
    network.eval()
    return Trained(
        name=name,
        predict=lambda image: _predict(network, preprocess, image),
        parameters=parameters(network),
        steps=steps,
        batch=config.batch_size,
        minutes=(time.perf_counter() - start) / 60,
    )


def _loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    total = F.cross_entropy(logits, targets.long(), weight=weights, ignore_index=IGNORE, reduction="sum")
    return total / targets.numel()


@torch.inference_mode()
def _predict(network: nn.Module, preprocess: Preprocess, image: Image.Image) -> Prediction:
    size = (image.height, image.width)
    label_map = resize_map(network(preprocess(image)[None])["out"], size)[0].argmax(dim=0)
    return Prediction(task="semantic", size=size, names=NAMES, label_map=label_map.numpy())


def score(predict: Predict, images: LabelMapImages) -> tuple[dict[str, float], list[float]]:
    """Return the metrics and each class's intersection over union, at the images' own size."""
    metric = SemanticMetric(images.names, boundary=True)
    for index in range(len(images)):
        metric.update([predict(images.load(index))], [images.target(index)])
    return metric.compute(), [row["iou"] for row in metric.details()["per_class"]]


def table(trained: list[Trained], images: LabelMapImages) -> str:
    """Return the results as a Markdown table."""
    head = ["network", "parameters", "batch", "steps", "images seen", "mIoU"]
    head += [f"IoU {name}" for name in images.names] + ["pixel accuracy", "boundary F1", "minutes"]
    rows: list[list[Any]] = [head, ["---"] * len(head)]
    for network in trained:
        metrics, ious = score(network.predict, images)
        scores = [metrics["miou"], *ious, metrics["pixel_accuracy"], metrics["boundary_f1"]]
        rows.append([network.name, *network.counts, *(f"{value:.3f}" for value in scores), f"{network.minutes:.1f}"])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def comparison_picture(trained: list[Trained], images: LabelMapImages, count: int) -> Image.Image:
    """Return a grid of some images, each with the truth and every network's map."""
    pictures, captions = [], []
    for index in range(0, len(images), max(1, len(images) // count))[:count]:
        image, colours = images.load(index), images.classes.colours
        maps = [images.target(index), *(network.predict(image).label_map for network in trained)]
        pictures += [image, *(overlay(image, label_map, colours) for label_map in maps if label_map is not None)]
        captions += ["image", "truth", *(network.name for network in trained)]
    return grid(pictures, captions, columns=2 + len(trained), side=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="wall-clock time of each training")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/instance/dsb2018"))
    parser.add_argument("--out", type=Path, help="new folder for the data, our run and the picture")
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=["lraspp"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="nuclei-"))
    prepare(args.data, out / "data")
    config = our_config(out / "data", args.minutes, args.seed)
    trained = [train_ours(replace(config, out=str(out / "run")))]
    trained += [train_peer(PEERS[peer], peer_config(config)) for peer in args.peer]
    held_out = open_label_maps(config.source).val
    comparison_picture(trained, held_out, 4).save(out / "nuclei.png")
    print(f"\n{table(trained, held_out)}\n\n{machine()}; seed {args.seed}; picture: {out / 'nuclei.png'}")


if __name__ == "__main__":
    main()
