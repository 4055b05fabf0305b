"""Images per second from JPEG files to batches on one core: our loader beside timm's and torchvision's.

Command: python benchmarks/loading.py --rounds 7
         python benchmarks/loading.py --images FOLDER --workers 4

All loaders apply the same transforms. Training is the reference's recipe: a random crop resized to 224 x 224 (bicubic),
a flip, RandAugment (rand-m9-mstd0.5-inc1), normalisation, erasing. Evaluation is a resize to 256, a centre crop of
224 x 224, normalisation. All batches are normalised floats on the CPU, so our times include work that a GPU does in
training. The `uint8` rows are batches that a GPU still has to normalise and to erase, as in timm's loader for GPUs.

A round is one pass over the images with each loader in turn. Medians over rounds are reported, and of the ratios also
the middle half. In one process the processor's time is measured, so that other programs have little influence; with
--workers it is wall-clock time.

torchvision has no RandAugment with timm's operations. Its rows draw the operations like timm and compute each with
`torchvision.transforms.v2`; on tensors it rotates and shears bilinearly, because it has no bicubic there. Without
--images, pictures of 500 x 375 (JPEG, quality 90), near ImageNet's average size, are cropped from scikit-learn's two
photographs.
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

from twins.data.formats.class_folders import LabelledFiles, class_folders
from twins.data.images import list_images
from twins.data.loading.batch import normalise_batch
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.classification import ImageAlone, train_transform
from twins.data.transforms.config import AugmentConfig
from twins.preprocess import Preprocess

PREPROCESS, AUGMENT = Preprocess(), AugmentConfig()
FILL = [round(255 * value) for value in PREPROCESS.mean]
CPU = torch.device("cpu")
Pass = Callable[[], Iterable[Any]]
"""Returns the batches of one pass over the images."""


def make_images(folder: Path, count: int) -> None:
    """Write pictures of 500 x 375 pixels into two class folders; a quarter of them is rotated to 375 x 500."""
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


def ours(folder: Path, training: bool, batch: int, workers: int, uint8: bool) -> Pass:
    """Return passes of our loader."""
    classes = class_folders(folder)
    files = [(path, label) for label, name in enumerate(classes) for path in list_images(name)]
    images = LabelledFiles([path for path, _ in files], [label for _, label in files], [name.name for name in classes])
    train_samples = TrainSamples(images, ImageAlone(train_transform(AUGMENT, PREPROCESS)), seed=0)
    order = TrainBatches(len(images), batch, seed=0)
    eval_samples = EvalSamples(images, ImageAlone(PREPROCESS.pixels))
    epochs = iter(range(10**9))

    def one_pass() -> Iterable[Any]:
        if training:
            step = order.steps * next(epochs)
            stream = train_loader(train_samples, order, step=step, workers=workers, pin=False)
            batches: Iterable[Any] = (next(stream) for _ in range(order.steps))
        else:
            batches = eval_loader(eval_samples, batch=batch, workers=workers)
        return (loaded.images if uint8 else normalise_batch(loaded, PREPROCESS, CPU).images for loaded in batches)

    return one_pass


def timms(folder: Path, training: bool, batch: int, workers: int, uint8: bool) -> Pass:
    """Return passes of timm's loader."""
    dataset = create_dataset("", root=str(folder))
    loader = create_loader(
        dataset,
        (3, 224, 224),
        batch,
        is_training=training,
        use_prefetcher=uint8,
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
            if operation.name.startswith("Posterize"):  # timm sometimes draws 0 bits, which newer Pillow refuses
                operation.aug_fn = lambda image, bits, **_: F.posterize(image, max(1, bits))
    inner = loader.loader if uint8 else loader  # the input of the prefetcher is uint8
    return lambda: (images for images, _ in inner)


def torchvisions(folder: Path, training: bool, batch: int, workers: int, *, tensors: bool) -> Pass:
    """Return passes of torchvision's loader, with transforms of Pillow images or of tensors."""
    rotation = InterpolationMode.BILINEAR if tensors else InterpolationMode.BICUBIC
    begin = [v2.PILToTensor()] if tensors else []
    resize = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
    crop = v2.RandomResizedCrop(224, AUGMENT.scale, AUGMENT.ratio, **resize)
    middle = (
        [crop, v2.RandomHorizontalFlip(), RandAugment(rotation)]
        if training
        else [v2.Resize(256, **resize), v2.CenterCrop(224)]
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
    """timm's `rand-m9-mstd0.5-inc1`, with torchvision's operations."""

    def __init__(self, interpolation: InterpolationMode) -> None:
        self.resampling = {"interpolation": interpolation, "fill": FILL}
        self.operations: list[Callable[[Any, float], Any]] = [
            lambda image, _: F.autocontrast(image),
            lambda image, _: F.equalize(image),
            lambda image, _: F.invert(image),
            lambda image, magnitude: F.rotate(image, _random_sign(30 * magnitude), **self.resampling),
            lambda image, magnitude: F.posterize(image, max(1, 4 - int(magnitude * 4))),
            lambda image, magnitude: F.solarize(image, max(0, 256 - int(magnitude * 256))),
            lambda image, magnitude: _solarize_add(image, min(128, int(magnitude * 110))),
            lambda image, magnitude: F.adjust_saturation(image, 1 + _random_sign(0.9 * magnitude)),
            lambda image, magnitude: F.adjust_contrast(image, 1 + _random_sign(0.9 * magnitude)),
            lambda image, magnitude: F.adjust_brightness(image, 1 + _random_sign(0.9 * magnitude)),
            lambda image, magnitude: F.adjust_sharpness(image, 1 + _random_sign(0.9 * magnitude)),
            lambda image, magnitude: self._affine(image, shear=[_random_shear(magnitude), 0.0]),
            lambda image, magnitude: self._affine(image, shear=[0.0, _random_shear(magnitude)]),
            lambda image, magnitude: self._affine(image, translate=[int(_random_sign(0.45 * magnitude) * 224), 0]),
            lambda image, magnitude: self._affine(image, translate=[0, int(_random_sign(0.45 * magnitude) * 224)]),
        ]

    def __call__(self, image: Any) -> Any:
        """Apply up to two operations to an image, Pillow's or a tensor."""
        for index in np.random.choice(len(self.operations), 2):
            if random.random() <= 0.5:
                image = self.operations[index](image, min(max(random.gauss(9, 0.5), 0.0), 10.0) / 10.0)
        return image

    def _affine(self, image: Any, **settings: Any) -> Any:
        identity = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "center": [0, 0]}
        return F.affine(image, **identity | settings | self.resampling)


def _random_sign(value: float) -> float:
    return -value if random.random() > 0.5 else value


def _random_shear(magnitude: float) -> float:
    """Return an angle in degrees whose tangent is up to 0.3."""
    return math.degrees(math.atan(_random_sign(0.3 * magnitude)))


def _solarize_add(image: Any, add: int) -> Any:
    if isinstance(image, Tensor):
        return torch.where(image < 128, image + add, image)  # at most 255
    return image.point([value + add if value < 128 else value for value in range(256)] * 3)


def measure(loaders: dict[str, Pass], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return each loader's images per second in each round, after a round for warm-up."""
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(rounds + 1):
        for name, batches in loaders.items():
            start = clock()
            count = sum(len(images) for images in batches())
            if number:
                speeds[name].append(count / (clock() - start))
    return speeds


def rows(kind: str, speeds: dict[str, list[float]], ours: str) -> list[str]:
    """Return lines of the table, with the ratio of our speed to each other loader's."""
    lines = []
    for name, loader_speeds in speeds.items():
        ratios = sorted(our_speed / speed for our_speed, speed in zip(speeds[ours], loader_speeds, strict=True))
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios * 3)
        ratio = "" if name == ours else f"{median(ratios):.2f} ({low:.2f}-{high:.2f})"
        lines.append(f"| {kind} | {name} | {median(loader_speeds):.0f} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with one folder per class")
    parser.add_argument("--count", type=int, default=96, help="number of pictures to make without --images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="loading processes; 0 loads in this process")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if args.workers else time.process_time
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.images or Path(temporary)
        if args.images is None:
            make_images(folder, args.count)
        print(f"{machine()}, Pillow {Image.__version__}, {args.workers} workers, batch {args.batch}\n")
        print("| transforms | loader | images/s | ours against it (middle half) |\n| --- | --- | --- | --- |")
        for training, kind in ((True, "training"), (False, "evaluation")):
            settings = folder, training, args.batch, args.workers
            floats = {
                "twins": ours(*settings, False),
                "timm": timms(*settings, False),
                "torchvision, Pillow": torchvisions(*settings, tensors=False),
                "torchvision, tensors": torchvisions(*settings, tensors=True),
            }
            print("\n".join(rows(kind, measure(floats, args.rounds, clock), "twins")), flush=True)
            uint8 = {"twins, uint8": ours(*settings, True), "timm, uint8": timms(*settings, True)}
            print("\n".join(rows(kind, measure(uint8, args.rounds, clock), "twins, uint8")), flush=True)


if __name__ == "__main__":
    main()
