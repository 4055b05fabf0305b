"""Small images, masks and refusals that the tests of data share."""

from __future__ import annotations

import contextlib
import zlib

import numpy as np
import pytest
from PIL import Image

from twins.errors import ConfigError, DataError, NotFoundError


@pytest.fixture(scope="session")
def save_image():
    """Write a picture of noise that no other name in no other folder has; `size` is width and height."""

    def save(path, size=(8, 6)):
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(zlib.crc32("/".join(path.parts[-2:]).encode()))
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def save_mask():
    """Write pixels, `(H, W)` or `(H, W, 3)`, or one value all over the size of `save_image`."""

    def save(path, pixels, dtype=np.uint8):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((6, 8), pixels) if np.ndim(pixels) == 0 else np.asarray(pixels)
        Image.fromarray(pixels.astype(dtype)).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def refused():
    """Expect an error that a user can mend, in one sentence that says something."""

    @contextlib.contextmanager
    def expect(saying):
        with pytest.raises((ConfigError, DataError, NotFoundError), match=saying) as caught:
            yield
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    return expect
