from __future__ import annotations

import torch

from twins.engine.randomness import reseed, seed_for


def test_seeds_depend_on_the_whole_key_and_its_order() -> None:
    keys = [(0, 1, 2, 3), (0, 1, 3, 2), (1, 0, 2, 3), (0, 12, 3), (0, 1, 23)]
    seeds = [seed_for(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_reseeding_gives_the_same_numbers_whatever_was_sampled_before() -> None:
    reseed(1, 2, 3)
    first = torch.rand(4)
    torch.rand(100)
    reseed(1, 2, 3)
    assert torch.equal(torch.rand(4), first)
