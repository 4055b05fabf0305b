"""The embedded data set `digits`: scikit-learn's handwritten digits."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.data.base import hold_out_per_class


class Digits:
    """scikit-learn's 1,797 real handwritten digits, 8 x 8 grey, as 32 x 32 RGB (1998, BSD-3-Clause)."""

    names = tuple(str(digit) for digit in range(10))

    def __init__(self, *, train: bool) -> None:
        pixels, labels = _read_digits()
        indices = hold_out_per_class(labels.tolist(), seed=0, val_share=0.2)[0 if train else 1]
        self.labels = [int(labels[i]) for i in indices]
        self.grey, self._indices = pixels[indices], indices

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        """Return the image of a digit, 32 x 32 RGB, white on black."""
        return _enlarge_digits()[self._indices[index]]

    def target(self, index: int) -> int:
        """Return a digit's class id."""
        return self.labels[index]

    def path(self, index: int) -> str:
        """Return `digits/N`, where N is the index in scikit-learn's set."""
        return f"digits/{self._indices[index]}"


@cache
def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pixels of all digits `(1797, 8, 8)`, 0..255, and their class ids `(1797,)`."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) * (255.0 / 16.0)).round().astype(np.uint8), labels


@cache
def _enlarge_digits() -> list[Image.Image]:
    return [
        Image.fromarray(grey).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for grey in _read_digits()[0]
    ]
