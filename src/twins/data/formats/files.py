"""The base class of data sets whose images are files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from twins.data.images import open_image


class ImageFiles:
    """Images in files; subclasses add `target`."""

    def __init__(self, images: Sequence[Path]) -> None:
        self.images = list(images)

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Image:
        """Return an image, RGB and upright; raises DataError if it cannot be read."""
        return open_image(self.images[index])

    def path(self, index: int) -> str:
        """Return an image's path."""
        return str(self.images[index])
