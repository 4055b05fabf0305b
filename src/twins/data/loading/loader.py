"""From image sets to batches, in worker processes.

Randomness depends only on (seed, epoch, image, copy), never on workers, batches or earlier steps. So a run resumes
exactly, and the number of workers changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from twins.data.base import ImageSet
from twins.data.loading.batch import Batch, Sample, Skipped, collate
from twins.data.loading.sampler import SampleKey, Shape, TrainBatches
from twins.data.seeding import seeded
from twins.data.transforms.deferred_fills import PixelsWithFills
from twins.errors import DataError, NotFoundError, number_of

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[[Any, Any], tuple[Tensor | PixelsWithFills, Any]]
"""Maps a Pillow image and its target to the network's input `(C, H, W)`, uint8 or normalised, and its target."""


class TrainSamples(Dataset[Sample]):
    """Augmented samples by (epoch, image, copy); an unreadable image is reported and replaced by the next one."""

    def __init__(self, images: ImageSet, transform: Transform, *, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, requested, copy = key
        skipped: list[Skipped] = []
        for index in (*range(requested, len(self.images)), *range(requested)):
            try:
                image, target = self.images.load(index), self.images.target(index)
                with seeded(self.seed, epoch, requested, copy):
                    result, new_target = self.transform(image, target)
            except (DataError, NotFoundError) as error:
                skipped.append(Skipped(self.images.path(index), str(error)))
                continue
            return _sample(result, new_target, index, image, tuple(skipped))
        raise DataError(
            f"none of the {number_of(len(self.images), 'training image')} can be read; the first: {skipped[0].reason}"
        )


class EvalSamples(Dataset["Sample | Skipped"]):
    """Samples for evaluation, in order; an unreadable image is reported and left out."""

    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> Sample | Skipped:
        try:
            image = self.images.load(index)
            result, target = self.transform(image, self.images.target(index))
        except (DataError, NotFoundError) as error:
            return Skipped(self.images.path(index), str(error))
        return _sample(result, target, index, image)


def _sample(
    result: Tensor | PixelsWithFills, target: Any, index: int, image: Image, skipped: tuple[Skipped, ...] = ()
) -> Sample:
    if not isinstance(result, PixelsWithFills):
        result = PixelsWithFills(result)
    return Sample(result.pixels, target, index, (image.height, image.width), skipped, result.fills)


def train_loader(
    samples: TrainSamples, batches: TrainBatches, *, step: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Yield endless training batches from optimiser step `step` of the run on."""
    loader = DataLoader(
        samples,
        batch_sampler=batches.stream(step),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
    )
    return iter(loader)


def eval_loader(
    samples: EvalSamples,
    *,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
    shapes: Sequence[Shape] | None = None,
) -> DataLoader[Any]:
    """Return batches of every `world`-th image from `rank` on; all processes together read each image exactly once.

    Args:
        samples: the images.
        batch: images per batch.
        rank: index of this process.
        world: number of processes.
        workers: worker processes; 0 loads in this process.
        pin: whether to move batches to page-locked memory.
        shapes: height and width of each image, for sorting by aspect ratio, then by size; `None` keeps the order.
    """
    order: Sequence[int] = range(len(samples.images))
    if shapes is not None:
        order = sorted(order, key=lambda index: (shapes[index][1] / shapes[index][0], shapes[index]))
    indices = order[rank::world]
    chunks = [list(indices[i : i + batch]) for i in range(0, len(indices), batch)]
    return DataLoader(samples, batch_sampler=chunks, num_workers=workers, collate_fn=collate, pin_memory=pin)
