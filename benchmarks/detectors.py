"""Detection and instance segmentation trained from scratch on a CPU: twins_svt_nano beside torchvision's detectors.

Commands: python benchmarks/detectors.py --data bccd --minutes 20
          python benchmarks/detectors.py --data dsb2018 --minutes 5
The data are blood cells with boxes (BCCD: 205 training and 87 held-out images) and nuclei with masks (Data Science
Bowl: 35 and 11). Both detectors have the same wall-clock time, images, augmentation, batch size, learning rate,
schedule and optimiser. The last weights are measured by COCO's protocol, so held-out images choose no weights.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from training import Predict, Trained, build_optimizer, machine, parameters, steps_of

import twins
from twins.data.base import AnnotatedImages
from twins.data.loading.batch import normalise_batch
from twins.data.loading.loader import TrainSamples, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.detection import RandomView
from twins.drawing import grid
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.engine.schedule import scheduled_rate
from twins.metrics.detection import DetectionMetric
from twins.predictions import Prediction
from twins.preprocess import Preprocess
from twins.tasks.contract import spec_of
from twins.tasks.inference import SelectionConfig
from twins.tasks.table import facts_of

SOURCES = {"bccd": "detection/bccd", "dsb2018": "instance/dsb2018"}
TASKS = {"bccd": "detection", "dsb2018": "instance"}
SAMPLES = 128
"""Proposals per image that train both detectors' second stages; a step with the published 512 takes far longer."""
MIN_SCORE = 0.4
"""Score that drawn objects must exceed."""


def our_config(data: str, source: Path, minutes: float, seed: int) -> TrainConfig:
    """Return the settings of our run: cells are large, nuclei are small, and both can be flipped vertically."""
    sides = {"bccd": (256, 288, 320), "dsb2018": (256, 320, 384)}[data]
    return TrainConfig(
        task=TASKS[data],
        data=str(source),
        model="twins_svt_nano",
        weights="none",
        minutes=minutes,
        seed=seed,
        size={"bccd": 288, "dsb2018": 320}[data],
        batch_size=4,
        workers=1,
        drop_path=0.0,
        epochs=100,  # only sets the warm-up's share of the minutes
        eval_every=1e6,  # only at the end
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98), layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(kind="poly", power=0.9, warmup_epochs=5, min_lr=0.0),
        detection=DetectionConfig(
            shorter=sides,
            longest=640,
            vflip=0.5,
            anchor_scale={"bccd": None, "dsb2018": 2.0}[data],
            samples=SAMPLES if TASKS[data] == "instance" else DetectionConfig().samples,
        ),
    )


def train_ours(config: TrainConfig) -> Trained:
    """Train our detector with `twins.train`."""
    start = time.perf_counter()
    run = twins.train(config)
    minutes = (time.perf_counter() - start) / 60
    predictor = twins.load(run.path / "last" / "model.safetensors", device="cpu", selection=SelectionConfig())
    return Trained(
        name=f"{config.model}, {predictor.model.info.head}",
        predict=lambda image: predictor.predict(image)[0],
        parameters=parameters(predictor.model),
        steps=steps_of(run.path),
        batch=config.batch_size,
        minutes=minutes,
    )


def build_peer(config: TrainConfig, classes: int) -> tuple[str, nn.Module]:
    """Return the name and the network of torchvision's MobileNetV3-Large detector with an FPN and random weights."""
    settings: dict[str, Any] = {"_skip_resize": True, "num_classes": classes + 1}
    settings["box_batch_size_per_image"] = SAMPLES
    if config.task == "detection":
        name = "fasterrcnn_mobilenet_v3_large_320_fpn"
        build = getattr(detection, name)
        return name, build(weights=None, weights_backbone=None, trainable_backbone_layers=6, **settings)
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, norm_layer=nn.BatchNorm2d, trainable_layers=6
    )
    anchors = detection.anchor_utils.AnchorGenerator(((16, 32, 64, 128, 256),) * 3, ((0.5, 1.0, 2.0),) * 3)
    network = detection.MaskRCNN(backbone, rpn_anchor_generator=anchors, **settings)
    return "maskrcnn_mobilenet_v3_large_fpn", network


def train_peer(config: TrainConfig) -> Trained:
    """Train torchvision's detector in a simple loop, with our augmentation, schedule and optimiser."""
    assert config.minutes
    start = time.perf_counter()
    torch.manual_seed(config.seed)
    spec = spec_of(config.task)
    images = spec.open(config.source).train
    name, network = build_peer(config, len(images.names))
    preprocess = replace(
        spec.preprocess(config, facts_of(config.task).preprocess), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    samples = TrainSamples(images, RandomView(config.detection, preprocess), seed=config.seed)
    order = TrainBatches(len(images), config.batch_size, seed=config.seed, shapes=spec.shapes(images))
    batches = train_loader(samples, order, step=0, workers=config.workers, pin=False)
    optimizer = build_optimizer(network, config.optimizer)
    network.train()
    steps = 0
    while (done := (time.perf_counter() - start) / 60 / config.minutes) < 1:
        batch = normalise_batch(next(batches), preprocess, torch.device("cpu"))
        for group in optimizer.param_groups:
            group["lr"] = scheduled_rate(config, done)
        loss = sum(network(*_theirs(batch.images, batch.sizes, batch.targets)).values())
        assert isinstance(loss, Tensor)
        if math.isfinite(loss.item()):
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
        predict=lambda image: _predict(network, preprocess, image, config.task, images.names),
        parameters=parameters(network),
        steps=steps,
        batch=config.batch_size,
        minutes=(time.perf_counter() - start) / 60,
    )


def _theirs(images: Tensor, sizes: Tensor | None, targets: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], Any]:
    """Return a batch in torchvision's form: a list of unpadded images, and targets with background as class 0."""
    shapes = [tuple(images.shape[2:])] * len(images) if sizes is None else [tuple(size) for size in sizes.tolist()]
    unpadded = [image[:, :height, :width] for image, (height, width) in zip(images, shapes, strict=True)]
    converted = [
        {name: value for name, value in target.items() if name != "crowd"} | {"labels": target["labels"] + 1}
        for target in targets
    ]
    for target in converted:
        if "masks" in target:
            target["masks"] = target["masks"].to(torch.uint8)
    return unpadded, converted


@torch.inference_mode()
def _predict(
    network: nn.Module, preprocess: Preprocess, image: Image.Image, task: str, names: tuple[str, ...]
) -> Prediction:
    tensor = preprocess(image)
    (outputs,) = network([tensor])
    scale = np.array([image.width / tensor.shape[2], image.height / tensor.shape[1]] * 2, dtype=np.float32)
    masks = None
    if "masks" in outputs:  # of the network's input size
        resized = nn.functional.interpolate(outputs["masks"], size=(image.height, image.width), mode="bilinear")
        masks = (resized[:, 0] >= 0.5).numpy()
    return Prediction(
        task=task,
        size=(image.height, image.width),
        names=names,
        boxes=outputs["boxes"].numpy() * scale,
        scores=outputs["scores"].numpy(),
        labels=outputs["labels"].numpy() - 1,
        masks=masks,
    )


def score(predict: Predict, images: AnnotatedImages, *, masks: bool) -> DetectionMetric:
    """Return the metric, updated with a detector's predictions of the held-out images."""
    metric = DetectionMetric(images.names, masks=masks)
    for index in range(len(images)):
        metric.update([predict(images.load(index))], [images.target(index)])
    return metric


def table(trained: list[Trained], images: AnnotatedImages, *, masks: bool) -> str:
    """Return the results as a Markdown table."""
    kinds = [*(("mask",) if masks else ()), "box"]
    head = ["detector", "parameters", "batch", "steps", "images seen"]
    head += [f"{kind} {name}" for kind in kinds for name in ("AP50", "AP")]
    head += [f"AP50 {name}" for name in images.names] + ["minutes"]
    rows: list[list[Any]] = [head, ["---"] * len(head)]
    for detector in trained:
        metric = score(detector.predict, images, masks=masks)
        numbers = metric.compute()
        scores = [numbers.get(f"{kind}_{name}", 0.0) for kind in kinds for name in ("ap50", "ap")]
        scores += [row["mask_ap50" if masks else "ap50"] for row in metric.details()["per_class"]]
        cells = [f"{value:.3f}" for value in scores]
        rows.append([detector.name, *detector.counts, *cells, f"{detector.minutes:.1f}"])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def comparison_picture(trained: list[Trained], images: AnnotatedImages, count: int) -> Image.Image:
    """Return a grid of some images, each with the truth and every detector's predictions."""
    pictures, captions = [], []
    for index in range(0, len(images), max(1, len(images) // count))[:count]:
        image = images.load(index)
        predictions = [_high_scoring(detector.predict(image)) for detector in trained]
        pictures += [prediction.draw(image) for prediction in (_truth(images, index), *predictions)]
        captions += ["truth", *(detector.name for detector in trained)]
    return grid(pictures, captions, columns=1 + len(trained), side=360)


def _high_scoring(prediction: Prediction) -> Prediction:
    """Return a prediction with only the objects that score above `MIN_SCORE`."""
    assert prediction.scores is not None
    selected = prediction.scores > MIN_SCORE
    fields = {name: getattr(prediction, name) for name in ("boxes", "scores", "labels", "masks")}
    return replace(prediction, **{name: None if value is None else value[selected] for name, value in fields.items()})


def _truth(images: AnnotatedImages, index: int) -> Prediction:
    """Return an image's true objects as a prediction with scores of 1."""
    from twins.data.objects import decode_masks

    objects = images.target(index)
    return Prediction(
        task="detection" if objects.masks is None else "instance",
        size=objects.size,
        names=images.names,
        boxes=objects.boxes.astype(np.float32),
        labels=objects.labels,
        scores=np.ones(len(objects), dtype=np.float32),
        masks=None if objects.masks is None else decode_masks(objects.masks, objects.size),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SOURCES, default="bccd")
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=30.0, help="wall-clock time of each training")
    parser.add_argument("--lr", type=float, help="our learning rate")
    parser.add_argument("--peer-lr", type=float, default=1e-3, help="the peer's learning rate")
    parser.add_argument("--only", choices=("ours", "peer"), help="train one detector alone")
    parser.add_argument("--out", type=Path, help="new folder for our run and the picture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="detectors-"))
    config = our_config(args.data, args.root / SOURCES[args.data], args.minutes, args.seed)
    peer_config = replace(config, optimizer=replace(config.optimizer, lr=args.peer_lr, betas=(0.9, 0.999)))
    if args.lr:
        config = replace(config, optimizer=replace(config.optimizer, lr=args.lr))
    trained = [train_ours(replace(config, out=str(out / "run")))] if args.only != "peer" else []
    trained += [train_peer(peer_config)] if args.only != "ours" else []
    masks = config.task == "instance"
    held_out = spec_of(config.task).open(config.source).val
    out.mkdir(parents=True, exist_ok=True)
    comparison_picture(trained, held_out, 4).save(out / f"{args.data}.png")
    print(f"\n{table(trained, held_out, masks=masks)}\n\n{machine()}; seed {args.seed}; picture in {out}")


if __name__ == "__main__":
    main()
