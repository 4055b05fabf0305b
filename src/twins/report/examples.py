"""Example images of a run: a few held-out ones, with which `twins serve RUN` lets people try the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL.Image import Image

from twins.data.base import ImageSet
from twins.drawing import thumbnail
from twins.errors import DataError, NotFoundError, TrainingError
from twins.files import atomic_file
from twins.run_folder import EXAMPLES, example_files

COUNT = 8
"""Number of examples, if there are as many images that can be read."""
PNG_SIDE = 256
"""Longer side in pixels up to which an example is a PNG, with the pixels of the image to the bit."""
LONGEST, QUALITY = 1600, 90
"""Longer side in pixels and quality of the others, which are JPEGs; larger images are reduced."""


def write_examples(run: Path, images: ImageSet) -> None:
    """Write `examples/` into a run folder, with images spread evenly over a set; those of before are replaced.

    Images keep none of their metadata, such as the place where a photograph was taken. Only those of one or three
    channels are written.

    Raises:
        TrainingError: the disk is full or not writable.
    """
    folder, old, new = run / EXAMPLES, example_files(run), list[Path]()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be made ({error.strerror}); free space, or remove what is there"
        ) from error
    for image in _spread(images):
        kind = "png" if max(image.size) <= PNG_SIDE else "jpg"
        new.append(folder / f"{len(new) + 1:02}.{kind}")
        with atomic_file(new[-1]) as temporary:
            if kind == "png":
                image.save(temporary, format="PNG")
            else:
                shown = thumbnail(image, LONGEST) if max(image.size) > LONGEST else image
                shown.save(temporary, format="JPEG", quality=QUALITY)
    for path in set(old) - set(new):
        path.unlink(missing_ok=True)


def _spread(images: ImageSet) -> Iterator[Image]:
    """Yield images spread evenly over a set, without their metadata; those that cannot be read are left out."""
    count = min(COUNT, len(images))
    for index in (number * len(images) // count for number in range(count)):
        try:
            image = images.load(index).copy()
        except (DataError, NotFoundError):  # the evaluation has named it
            continue
        if getattr(image, "mode", "") in ("L", "RGB"):  # an image of other channels is no Pillow image
            image.info = {}
            yield image
