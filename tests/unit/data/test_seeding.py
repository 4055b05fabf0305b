"""Seeding of all random number generators by a key."""

from __future__ import annotations

import random

import numpy as np
import torch

from twins.data.seeding import seeded


def test_seeding_is_repeatable_and_restores_every_generator():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with seeded(1, 2, 3):
        numbers = random.random(), np.random.rand(), torch.rand(1)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    with seeded(1, 2, 3):
        assert (random.random(), np.random.rand(), torch.rand(1)) == numbers
