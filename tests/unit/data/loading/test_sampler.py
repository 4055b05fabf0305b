"""The order of training images: a permutation that processes share and that can be resumed at any step."""

from __future__ import annotations

import pytest

from twins.data.loading.sampler import TrainBatches
from twins.errors import ConfigError


def test_a_stream_that_starts_later_equals_the_rest_of_the_first():
    batches = TrainBatches(50, 3, seed=1, accumulate=2)
    stream = batches.stream(0)
    expected = [next(stream) for _ in range(40)]
    resumed = batches.stream(7)
    assert [next(resumed) for _ in range(26)] == expected[14:]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch_without_overlap(world):
    shares = [list(TrainBatches(50, 4, seed=0, rank=rank, world=world).epoch(0)) for rank in range(world)]
    keys = [key for share in shares for batch in share for key in batch]
    assert len(set(keys)) == len(keys) == 50 // (4 * world) * 4 * world


def test_repeated_augmentation_uses_copies_of_fewer_images():
    keys = [key for batch in TrainBatches(60, 6, seed=0, repeats=3).epoch(0) for key in batch]
    assert len(keys) == len(set(keys)) == 60
    assert len({index for _, index, _ in keys}) == 20


def test_too_few_images_for_the_processes_are_refused():
    with pytest.raises(ConfigError, match="3 training images are too few for 4 processes"):
        TrainBatches(3, 1, seed=0, world=4)
    with pytest.raises(ConfigError, match="1 training image is too few for 1 process with `accumulate=2`"):
        TrainBatches(1, 1, seed=0, accumulate=2)


@pytest.mark.parametrize("world", [1, 2])
def test_batches_of_similar_shapes_are_still_one_permutation_of_the_images(world):
    shapes = [((100, 150), (150, 100), (100, 100))[i % 3] for i in range(240)]
    ranks = [TrainBatches(240, 4, seed=3, rank=rank, world=world, shapes=shapes) for rank in range(world)]
    plain = TrainBatches(240, 4, seed=3)
    grouped = [[index for _, index, _ in batch] for batches in ranks for batch in batches.epoch(1)]
    assert sorted(index for batch in grouped for index in batch) == list(range(240))
    assert sum(len({shapes[index] for index in batch}) == 1 for batch in grouped) > 0.8 * len(grouped)
    assert sum(len({shapes[i] for _, i, _ in batch}) == 1 for batch in plain.epoch(1)) < 0.3 * len(grouped)
    first, second = ([i for batch in ranks[0].epoch(epoch) for _, i, _ in batch] for epoch in (0, 1))
    assert first != second
    resumed = [key for batch in ranks[0].epoch(1, start=5) for key in batch]
    assert resumed == [key for batch in ranks[0].epoch(1) for key in batch][20:]
