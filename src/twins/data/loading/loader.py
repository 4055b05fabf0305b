"""From data sets to batches, in loading processes.

Randomness depends only on (seed, epoch, image, copy), never on workers, the batch or what ran before: so a run
resumes exactly, and the number of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from twins.data.base import ImageSet
from twins.data.loading.batch import Batch, Sample, Skipped, collate
from twins.data.loading.sampler import Entry, Shape, TrainBatches
from twins.data.seeding import seeded
from twins.data.transforms.patches import Patched
from twins.errors import DataError, NotFoundError

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[[Any, Any], tuple[Tensor | Patched, Any]]
"""Turns a Pillow image and its target into the network's input `(C, H, W)`, uint8 or normalised, and what is learned
from it."""


class TrainSamples(Dataset[Sample]):
    """Augmented samples by (epoch, image, copy); an unreadable image is replaced by the next one, and reported."""

    def __init__(self, images: ImageSet, transform: Transform, *, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, entry: Entry) -> Sample:
        epoch, wanted, copy = entry
        skipped: list[Skipped] = []
        for index in (*range(wanted, len(self.images)), *range(wanted)):
            try:
                image, target = self.images.load(index), self.images.target(index)
                with seeded(self.seed, epoch, wanted, copy):
                    made, learned = self.transform(image, target)
            except (DataError, NotFoundError) as error:
                skipped.append(Skipped(self.images.path(index), str(error)))
                continue
            return _sample(made, learned, index, image, tuple(skipped))
        raise DataError(f"none of the {len(self.images)} training images can be read; the first: {skipped[0].reason}")


class EvalSamples(Dataset["Sample | Skipped"]):
    """Samples for evaluation, in order; an unreadable image is left out, and reported."""

    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> Sample | Skipped:
        try:
            image = self.images.load(index)
            made, target = self.transform(image, self.images.target(index))
        except (DataError, NotFoundError) as error:
            return Skipped(self.images.path(index), str(error))
        return _sample(made, target, index, image)


def _sample(made: Tensor | Patched, target: Any, index: int, image: Image, skipped: tuple[Skipped, ...] = ()) -> Sample:
    prepared = made if isinstance(made, Patched) else Patched(made)
    return Sample(prepared.pixels, target, index, (image.height, image.width), skipped, prepared.patches)


def train_loader(
    samples: TrainSamples, batches: TrainBatches, *, step: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Yield training batches without end, from optimiser step `step` of the run on."""
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
    """Return batches of every `world`-th image from `rank` on: over all processes each image exactly once.

    Args:
        samples: the images.
        batch: images at a time.
        rank: this process.
        world: number of processes.
        workers: loading processes.
        pin: whether batches are moved to page-locked memory.
        shapes: height and width of each image, by which they are sorted; `None` leaves them in their order.
    """
    order: Sequence[int] = range(len(samples.images))
    if shapes is not None:
        order = sorted(order, key=lambda index: (shapes[index][1] / shapes[index][0], shapes[index]))
    mine = order[rank::world]
    chunks = [list(mine[i : i + batch]) for i in range(0, len(mine), batch)]
    return DataLoader(samples, batch_sampler=chunks, num_workers=workers, collate_fn=collate, pin_memory=pin)
