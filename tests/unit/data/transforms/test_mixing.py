"""Mixup and CutMix."""

from __future__ import annotations

import torch

from twins.data.transforms.mixing import mix


def test_mixing_depends_only_on_its_key_and_keeps_probabilities():
    images, targets = torch.rand(8, 3, 16, 16), torch.arange(8) % 4
    settings = {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "num_classes": 4}
    first, again = (mix(images, targets, **settings, key=(0, 1, 5)) for _ in range(2))
    other = mix(images, targets, **settings, key=(0, 2, 5))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    torch.testing.assert_close(first[1].sum(dim=1), torch.ones(8))
