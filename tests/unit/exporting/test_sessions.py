"""Exported files of each format run the same way, and their input is checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twins.exporting.formats import read_info
from twins.exporting.sessions import open_session

from .conftest import Tiny, info_of


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected(images, sizes=None):
    with torch.no_grad():
        outputs = Tiny()(torch.from_numpy(images), None if sizes is None else torch.from_numpy(sizes))
    return outputs["probabilities"].numpy()


@pytest.mark.parametrize("shape", [(1, 64, 80, 3), (3, 33, 101, 3)])
def test_each_format_gives_the_outputs_of_the_network_by_name_at_any_size(exported, shape):
    images = images_of(*shape)
    outputs = open_session(exported, threads=1).run(images)
    assert list(outputs) == ["probabilities"]
    np.testing.assert_allclose(outputs["probabilities"], expected(images), rtol=1e-5)
    assert read_info(exported)[1] == info_of()
