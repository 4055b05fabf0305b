"""Steps that start from image files: end to end to predictions, and the data loader alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor, nn

from twins.bench.config import shape_of
from twins.bench.networks import DTYPES, Case, Step
from twins.data.channels import open_channels
from twins.data.formats.files import ImageFiles
from twins.data.images import ORIENTATION, list_images
from twins.data.loading.batch import Batch
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.config import SemanticConfig
from twins.engine.config import TrainConfig
from twins.errors import DataError, NotFoundError
from twins.files import is_invalid_path
from twins.predictor import Predictor
from twins.preprocess import Preprocess, pixels_of
from twins.tasks.contract import TaskSpec, spec_of
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of

LOADING = ("loading-train", "loading-eval")
"""Modes of the two rows of `loading`."""


@contextmanager
def image_files(folder: str | None) -> Iterator[list[Path]]:
    """Yield the images of a folder, or of `None` two photographs as temporary JPEG files.

    Raises:
        NotFoundError: a folder without images.
    """
    if folder is not None:
        files = [] if not folder or is_invalid_path(folder) else list_images(Path(folder))
        if not files:
            raise NotFoundError(f'`images="{folder}"` leads to no image; check the path')
        yield files
        return
    from sklearn.datasets import load_sample_images

    with TemporaryDirectory(prefix="twins-bench-") as temporary:
        files = [Path(temporary) / f"{number}.jpg" for number in range(2)]
        for file, pixels in zip(files, load_sample_images().images, strict=True):
            Image.fromarray(pixels).save(file, quality=90)
        yield files


def pixels_at(size: int | str, files: Sequence[Path], *, batch: int, channels: int = 3) -> Tensor:
    """Return a batch of image files as pixels, uint8 `(B, C, H, W)`, each resized to a size; few files are repeated."""
    height, width = shape_of(size)
    images = [open_channels(file, channels).resize((width, height), Resampling.BILINEAR) for file in files[:batch]]
    return torch.stack([pixels_of(image) for image in islice(cycle(images), batch)])


def end_to_end_step(
    network: nn.Module, case: Case, files: Sequence[Path], device: torch.device, *, compile: bool = False
) -> Step:
    """Return a function that opens a batch of files, preprocesses them, and decodes the network's outputs.

    Our network runs in `Predictor`. timm's classifier runs with timm's own transform, softmax and five best classes.
    """
    next_files = cycle(files)
    if isinstance(network, TaskNetwork):
        network.info = replace(network.info, preprocess=preprocess_at(network.info.preprocess, case.size))
        predictor = Predictor(network, device=device, compile=compile)
        return lambda: predictor.predict(list(islice(next_files, case.batch)), batch_size=case.batch)
    from timm.data import create_transform, resolve_model_data_config

    settings = resolve_model_data_config(network) | {"input_size": (3, *shape_of(case.size))}
    transform = create_transform(**settings, is_training=False)
    if compile:
        network.compile()
    network.eval()

    def step() -> Any:
        images = [transform(Image.open(file).convert("RGB")) for file in islice(next_files, case.batch)]
        with torch.inference_mode():
            top5 = network(torch.stack(images).to(device, DTYPES[case.precision])).float().softmax(-1).topk(5)
        return [part.cpu().numpy() for part in top5]

    return step


def preprocess_at(preprocess: Preprocess, size: int | str) -> Preprocess:
    """Return the preprocessing for an input size.

    If it keeps the aspect ratio, the size gives the shorter and the longer side; one number gives the shorter side.
    """
    shorter, longer = sorted(shape_of(size))
    if preprocess.fit != "keep":
        return replace(preprocess, size=shorter)
    longest = longer if "x" in str(size).lower() else max(preprocess.longest, shorter)
    return replace(preprocess, size=shorter, longest=longest)


def loading_step(case: Case, files: Sequence[Path]) -> Step:
    """Return a function that loads the next batch in this process, as in training or in evaluation."""
    spec, preprocess = spec_of(case.task), preprocess_at(facts_of(case.task).preprocess, case.size)
    count = -(-len(files) // case.batch) * case.batch  # so that all batches are full
    images: Any = _Files(spec, list(islice(cycle(files), count)))
    if case.mode == "loading-eval":
        eval_samples = EvalSamples(images, spec.eval_transform(preprocess))
        return partial(_next, chain.from_iterable(repeat(eval_loader(eval_samples, batch=case.batch))))
    config = TrainConfig(task=case.task, size=preprocess.size, semantic=SemanticConfig(crop=preprocess.size))
    transform = spec.train_transform(config, preprocess)
    order = TrainBatches(len(images), case.batch, seed=0)
    samples = TrainSamples(images, transform, seed=0)
    return partial(_next, train_loader(samples, order, step=0, workers=0, pin=False))


def _next(batches: Iterator[Batch]) -> Batch:
    """Return the next batch; raises DataError if an image is unreadable, because it would be counted as loaded."""
    batch = next(batches)
    if batch.skipped:
        raise DataError(batch.skipped[0].reason)
    return batch


class _Files(ImageFiles):
    """Image files with made-up targets."""

    def __init__(self, spec: TaskSpec, files: Sequence[Path]) -> None:
        super().__init__(files)
        self.names, self.target_of = ("dark", "bright"), spec.synthetic_target

    def target(self, index: int) -> Any:
        """Return a made-up target for the image's size; the pixels are not decoded."""
        with Image.open(self.images[index]) as image:  # reads only the file's header
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            height, width = (image.width, image.height) if turned else (image.height, image.width)
        return self.target_of(height, width)
