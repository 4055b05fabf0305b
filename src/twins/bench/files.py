"""Steps that begin at image files: end to end to predictions, and the data loader alone."""

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
from torch import nn

from twins.bench.config import shape_of
from twins.bench.subjects import DTYPES, Case, Step
from twins.data.base import list_images
from twins.data.formats.files import ImageFiles
from twins.data.images import ORIENTATION
from twins.data.loading.batch import Batch
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.config import SemanticConfig
from twins.engine.config import TrainConfig
from twins.errors import DataError, NotFoundError
from twins.files import too_long
from twins.predictor import Predictor
from twins.preprocess import Preprocess
from twins.tasks.contract import TaskSpec, spec_of
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of

LOADING = ("loading-train", "loading-eval")
"""The two rows of the mode `loading`."""


@contextmanager
def image_files(folder: str | None) -> Iterator[list[Path]]:
    """Give the images of a folder, or two photographs as JPEG files that exist as long as this block.

    Raises:
        NotFoundError: a folder without images.
    """
    if folder is not None:
        found = [] if not folder or too_long(folder) else list_images(Path(folder))
        if not found:
            raise NotFoundError(f'`images="{folder}"` leads to no image; check the path')
        yield found
        return
    from sklearn.datasets import load_sample_images

    with TemporaryDirectory(prefix="twins-bench-") as place:
        files = [Path(place) / f"{number}.jpg" for number in range(2)]
        for file, pixels in zip(files, load_sample_images().images, strict=True):
            Image.fromarray(pixels).save(file, quality=90)
        yield files


def end_to_end_step(
    network: nn.Module, case: Case, files: Sequence[Path], device: torch.device, *, compile: bool = False
) -> Step:
    """Return a call that opens a batch of files, preprocesses them, and decodes the network's outputs.

    Ours goes through `Predictor`, a classifier of timm's through timm's own transform, softmax and five best classes.
    """
    turn = cycle(files)
    if isinstance(network, TaskNetwork):
        network.info = replace(network.info, preprocess=preparation(network.info.preprocess, case.size))
        predictor = Predictor(network, device=device, compile=compile)
        return lambda: predictor.predict(list(islice(turn, case.batch)), batch_size=case.batch)
    from timm.data import create_transform, resolve_model_data_config

    settings = resolve_model_data_config(network) | {"input_size": (3, *shape_of(case.size))}
    prepare = create_transform(**settings, is_training=False)
    if compile:
        network.compile()
    network.eval()

    def step() -> Any:
        images = [prepare(Image.open(file).convert("RGB")) for file in islice(turn, case.batch)]
        with torch.inference_mode():
            shares = network(torch.stack(images).to(device, DTYPES[case.precision])).float().softmax(-1).topk(5)
        return [part.cpu().numpy() for part in shares]

    return step


def preparation(known: Preprocess, size: int | str) -> Preprocess:
    """Return the preprocessing at a size; where the aspect ratio is kept, its shorter and its longer side."""
    shorter, longer = sorted(shape_of(size))
    if known.fit != "keep":
        return replace(known, size=shorter)
    return replace(known, size=shorter, longest=longer if "x" in str(size).lower() else max(known.longest, shorter))


def loading_step(case: Case, files: Sequence[Path]) -> Step:
    """Return a call that loads the next batch in this process, as a run of training or its evaluation loads it."""
    spec, known = spec_of(case.task), preparation(facts_of(case.task).preprocess, case.size)
    whole = -(-len(files) // case.batch) * case.batch  # no batch is cut short
    images: Any = _Files(spec, list(islice(cycle(files), whole)))
    if case.mode == "loading-eval":
        looked = EvalSamples(images, spec.eval_transform(known))
        return partial(_next, chain.from_iterable(repeat(eval_loader(looked, batch=case.batch))))
    config = TrainConfig(task=case.task, size=known.size, semantic=SemanticConfig(crop=known.size))
    transform = spec.train_transform(config, known)
    order = TrainBatches(len(images), case.batch, seed=0)
    samples = TrainSamples(images, transform, seed=0)
    return partial(_next, train_loader(samples, order, step=0, workers=0, pin=False))


def _next(batches: Iterator[Batch]) -> Batch:
    """Return the next batch; raises DataError where an image could not be read, so that none is counted as loaded."""
    batch = next(batches)
    if batch.skipped:
        raise DataError(batch.skipped[0].reason)
    return batch


class _Files(ImageFiles):
    """Image files with a made-up target of each."""

    def __init__(self, spec: TaskSpec, files: Sequence[Path]) -> None:
        super().__init__(files)
        self.names, self.target_of = ("dark", "bright"), spec.synthetic_target

    def target(self, index: int) -> Any:
        """Return a task's target for an image of this size; its pixels are not read for it."""
        with Image.open(self.images[index]) as image:  # its head alone
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            height, width = (image.width, image.height) if turned else (image.height, image.width)
        return self.target_of(height, width)
