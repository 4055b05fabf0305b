"""Images/s of one core from JPEG files to batches: our loader beside timm's and torchvision's, the same transforms.

Command: python benchmarks/loading.py --rounds 7
         python benchmarks/loading.py --images FOLDER --workers 4

Training is the reference's recipe: a random part of the image at 224 x 224 (bicubic), a flip, RandAugment
(rand-m9-mstd0.5-inc1), normalisation, erasing. Evaluation is a resize to 256, the centre 224 x 224, normalisation.
Batches are normalised floats on the processor on every side, so ours counts what a GPU would do; `uint8` rows are
batches that a GPU still has to normalise and to erase, as timm's loader for GPUs makes them too. A round is one pass
over the images on each side in turn; medians of rounds are reported, and of the rounds' ratios with their middle half.
In one process what counts is the processor's time, so that other programs change little; with --workers it is the
clock's.

torchvision has no RandAugment with timm's operations: its row draws them as timm does and computes each by
`torchvision.transforms.v2`. On tensors it turns and shears bilinearly, for want of a bicubic. Without --images,
pictures of 500 x 375 (JPEG, quality 90), near ImageNet's average, are cut out of scikit-learn's two photographs.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F
from training import machine

from twins.data.base import list_images
from twins.data.formats.class_folders import LabelledFiles, class_folders
from twins.data.loading.batch import normalised
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.classification import ImageAlone, train_transform
from twins.data.transforms.config import AugmentConfig
from twins.preprocess import Preprocess

PREPROCESS, AUGMENT = Preprocess(), AugmentConfig()
FILL = [round(255 * value) for value in PREPROCESS.mean]
CPU = torch.device("cpu")
Pass = Callable[[], Iterable[Any]]
"""Gives the batches of one pass over the images."""


def make_images(folder: Path, count: int) -> None:
    """Write pictures of 500 x 375, a quarter of them upright, in two class folders."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for index in range(count):
        photo = photos[index % 2]
        share = random.uniform(0.6, 1.0)
        width, height = int(photo.width * share), int(photo.height * share)
        x, y = (int(random.integers(0, room + 1)) for room in (photo.width - width, photo.height - height))
        picture = photo.crop((x, y, x + width, y + height)).resize((500, 375), Image.Resampling.BICUBIC)
        if index % 8 > 5:
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        (folder / str(index % 2)).mkdir(parents=True, exist_ok=True)
        picture.save(folder / str(index % 2) / f"{index}.jpg", quality=90)


def ours(folder: Path, training: bool, batch: int, workers: int, levels: bool) -> Pass:
    classes = class_folders(folder)
    files = [(path, label) for label, name in enumerate(classes) for path in list_images(name)]
    images = LabelledFiles([path for path, _ in files], [label for _, label in files], [name.name for name in classes])
    learn = TrainSamples(images, ImageAlone(train_transform(AUGMENT, PREPROCESS)), seed=0)
    order = TrainBatches(len(images), batch, seed=0)
    look = EvalSamples(images, ImageAlone(PREPROCESS.pixels))
    passes = iter(range(10**9))

    def given() -> Iterable[Any]:
        if training:
            step = order.steps * next(passes)
            stream = train_loader(learn, order, step=step, workers=workers, pin=False)
            batches: Iterable[Any] = (next(stream) for _ in range(order.steps))
        else:
            batches = eval_loader(look, batch=batch, workers=workers)
        return (found.images if levels else normalised(found, PREPROCESS, CPU).images for found in batches)

    return given


def timms(folder: Path, training: bool, batch: int, workers: int, levels: bool) -> Pass:
    dataset = create_dataset("", root=str(folder))
    loader = create_loader(
        dataset,
        (3, 224, 224),
        batch,
        is_training=training,
        use_prefetcher=levels,
        re_prob=AUGMENT.erasing,
        re_mode="pixel",
        scale=AUGMENT.scale,
        ratio=AUGMENT.ratio,
        hflip=AUGMENT.hflip,
        auto_augment=AUGMENT.rand_augment,
        interpolation="bicubic",
        crop_pct=0.875,
        mean=PREPROCESS.mean,
        std=PREPROCESS.std,
        num_workers=workers,
        pin_memory=False,
        persistent_workers=False,
        device=CPU,
    )
    for step in dataset.transform.transforms if training else ():
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):  # 0 bits, which newer Pillow refuses, are drawn now and then
                operation.aug_fn = lambda image, bits, **_: F.posterize(image, max(1, bits))
    inner = loader.loader if levels else loader  # what the prefetcher reads: uint8
    return lambda: (images for images, _ in inner)


def torchvisions(folder: Path, training: bool, batch: int, workers: int, *, tensors: bool) -> Pass:
    turn = InterpolationMode.BILINEAR if tensors else InterpolationMode.BICUBIC
    begin = [v2.PILToTensor()] if tensors else []
    size = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
    middle = (
        [v2.RandomResizedCrop(224, AUGMENT.scale, AUGMENT.ratio, **size), v2.RandomHorizontalFlip(), RandAugment(turn)]
        if training
        else [v2.Resize(256, **size), v2.CenterCrop(224)]
    )
    end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(PREPROCESS.mean, PREPROCESS.std), v2.ToPureTensor()]
    if not tensors:
        end.insert(0, v2.PILToTensor())
    if training:
        end.append(v2.RandomErasing(AUGMENT.erasing, (0.02, 1 / 3), (0.3, 1 / 0.3), value="random"))
    dataset = ImageFolder(str(folder), v2.Compose([*begin, *middle, *end]))
    loader = DataLoader(dataset, batch, shuffle=training, num_workers=workers, drop_last=training)
    return lambda: (images for images, _ in loader)


class RandAugment:
    """timm's `rand-m9-mstd0.5-inc1`, each operation by torchvision."""

    def __init__(self, interpolation: InterpolationMode) -> None:
        self.moved = {"interpolation": interpolation, "fill": FILL}
        self.operations: list[Callable[[Any, float], Any]] = [
            lambda image, _: F.autocontrast(image),
            lambda image, _: F.equalize(image),
            lambda image, _: F.invert(image),
            lambda image, level: F.rotate(image, _either(30 * level), **self.moved),
            lambda image, level: F.posterize(image, max(1, 4 - int(level * 4))),
            lambda image, level: F.solarize(image, max(0, 256 - int(level * 256))),
            lambda image, level: _solarize_add(image, min(128, int(level * 110))),
            lambda image, level: F.adjust_saturation(image, 1 + _either(0.9 * level)),
            lambda image, level: F.adjust_contrast(image, 1 + _either(0.9 * level)),
            lambda image, level: F.adjust_brightness(image, 1 + _either(0.9 * level)),
            lambda image, level: F.adjust_sharpness(image, 1 + _either(0.9 * level)),
            lambda image, level: self._move(image, shear=[math.degrees(math.atan(_either(0.3 * level))), 0.0]),
            lambda image, level: self._move(image, shear=[0.0, math.degrees(math.atan(_either(0.3 * level)))]),
            lambda image, level: self._move(image, translate=[int(_either(0.45 * level) * 224), 0]),
            lambda image, level: self._move(image, translate=[0, int(_either(0.45 * level) * 224)]),
        ]

    def __call__(self, image: Any) -> Any:
        """Change an image, Pillow's or a tensor, by up to two operations."""
        for index in np.random.choice(len(self.operations), 2):
            if random.random() <= 0.5:
                image = self.operations[index](image, min(max(random.gauss(9, 0.5), 0.0), 10.0) / 10.0)
        return image

    def _move(self, image: Any, **given: Any) -> Any:
        plain = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "center": [0, 0]}
        return F.affine(image, **plain | given | self.moved)


def _either(value: float) -> float:
    return -value if random.random() > 0.5 else value


def _solarize_add(image: Any, add: int) -> Any:
    if isinstance(image, Tensor):
        return torch.where(image < 128, image + add, image)  # at most 255
    return image.point([level + add if level < 128 else level for level in range(256)] * 3)


def measure(sides: dict[str, Pass], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return images/s of each side in each round, after one that counts for nothing."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, batches in sides.items():
            began = clock()
            seen = sum(len(images) for images in batches())
            if number:
                speeds[name].append(seen / (clock() - began))
    return speeds


def rows(kind: str, speeds: dict[str, list[float]], leading: str) -> list[str]:
    lines = []
    for name, found in speeds.items():
        ratios = sorted(mine / other for mine, other in zip(speeds[leading], found, strict=True))
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios * 3)
        ratio = "" if name == leading else f"{median(ratios):.2f} ({low:.2f}-{high:.2f})"
        lines.append(f"| {kind} | {name} | {median(found):.0f} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of class folders")
    parser.add_argument("--count", type=int, default=96, help="pictures that are made where none are given")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="loading processes; 0 is one core, ours")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if arguments.workers else time.process_time
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.images or Path(made)
        if arguments.images is None:
            make_images(folder, arguments.count)
        print(f"{machine()}, Pillow {Image.__version__}, {arguments.workers} workers, batch {arguments.batch}\n")
        print("| transforms | loader | images/s | ours against it (middle half) |\n| --- | --- | --- | --- |")
        for training, kind in ((True, "training"), (False, "evaluation")):
            share = folder, training, arguments.batch, arguments.workers
            floats = {
                "twins": ours(*share, False),
                "timm": timms(*share, False),
                "torchvision, Pillow": torchvisions(*share, tensors=False),
                "torchvision, tensors": torchvisions(*share, tensors=True),
            }
            print("\n".join(rows(kind, measure(floats, arguments.rounds, clock), "twins")), flush=True)
            levels = {"twins, uint8": ours(*share, True), "timm, uint8": timms(*share, True)}
            print("\n".join(rows(kind, measure(levels, arguments.rounds, clock), "twins, uint8")), flush=True)


if __name__ == "__main__":
    main()
