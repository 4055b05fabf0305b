"""Fixtures of the data tests: small images and masks, and a check of error messages."""

from __future__ import annotations

import contextlib
import zlib

import numpy as np
import pytest
from PIL import Image

from twins.errors import ConfigError, DataError, NotFoundError


@pytest.fixture(scope="session")
def save_image():
    """Write an image of noise that depends on its name and folder; `size` is width and height."""

    def save(path, size=(8, 6)):
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(zlib.crc32("/".join(path.parts[-2:]).encode()))
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def save_mask():
    """Write a mask of pixels, `(H, W)` or `(H, W, 3)`, or of one value at the size of `save_image`."""

    def save(path, pixels, dtype=np.uint8):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((6, 8), pixels) if np.ndim(pixels) == 0 else np.asarray(pixels)
        Image.fromarray(pixels.astype(dtype)).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def refused():
    """Expect an error that a user can correct, whose one sentence matches a pattern."""

    @contextlib.contextmanager
    def expect(message):
        with pytest.raises((ConfigError, DataError, NotFoundError), match=message) as caught:
            yield
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    return expect
