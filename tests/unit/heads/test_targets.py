"""A wrong target is reported with its index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twins.errors import InputError
from twins.heads.targets import check_targets

IMAGES = torch.zeros(2, 3, 64, 96)


def valid_target(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    boxes, labels = torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([4])
    return {"boxes": boxes, "labels": labels, "masks": torch.ones(1, 64, 96, dtype=torch.bool)} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": torch.tensor([[5.0, 2.0, 5.0, 40.0]])}, r"targets\[1\] has a box without area, \[5.0, 2.0, 5.0"),
        ({"boxes": torch.tensor([[torch.nan, 2.0, 5.0, 40.0]])}, r"targets\[1\] has a box without area, \[nan"),
        ({"labels": torch.tensor([5])}, r"targets\[1\] has the label 5, the classes are 0 to 4"),
        ({"labels": torch.tensor([-1])}, r"targets\[1\] has the label -1"),
        ({"labels": torch.tensor([1, 2])}, r"targets\[1\] needs an int label for each box, found 1 box and"),
        ({"labels": torch.tensor([1.0])}, r"targets\[1\] needs an int label"),
        ({"boxes": torch.tensor([[1, 2, 30, 40]])}, r"targets\[1\] needs float boxes"),
        ({"labels": torch.tensor([True])}, r"targets\[1\] needs an int label"),
        ({"labels": np.array([4])}, r"targets\[1\] needs labels as a tensor, found ndarray"),
        ({"boxes": [[1.0, 2.0, 30.0, 40.0]]}, r"targets\[1\] needs boxes as a tensor, found list"),
        ({"masks": None}, r"targets\[1\] needs masks as a tensor, found NoneType"),
        ({"crowd": torch.zeros(4)}, r"targets\[1\] needs crowd boxes \(C, 4\), found the shape \(4,\)"),
        ({"crowd": [[0.0, 0.0, 1.0, 1.0]]}, r"targets\[1\] needs crowd as a tensor"),
        ({"masks": torch.ones(1, 64, 64)}, r"targets\[1\] needs masks \(1, 64, 96\)"),
    ],
)
def test_a_mistake_names_the_target(changes, message):
    with pytest.raises(InputError, match=message):
        check_targets([valid_target(), valid_target(**changes)], IMAGES, 5, masks=True)


def test_a_missing_part_and_a_missing_target_are_reported():
    with pytest.raises(InputError, match="found 1 target for 2 images"):
        check_targets([valid_target()], IMAGES, 5)
    with pytest.raises(InputError, match=r"targets\[0\] lacks labels; it has boxes"):
        check_targets([{"boxes": torch.zeros(0, 4)}, valid_target()], IMAGES, 5)
    with pytest.raises(InputError, match="found none"):
        check_targets(
            [valid_target(), {k: v for k, v in valid_target().items() if k != "masks"}], IMAGES, 5, masks=True
        )


@pytest.mark.parametrize("targets", [None, valid_target(), torch.zeros(2, 4), (target for target in ())])
def test_anything_but_a_list_of_targets_is_refused(targets):
    with pytest.raises(InputError, match="targets must be a list of one dictionary per image"):
        check_targets(targets, IMAGES, 5)
    with pytest.raises(InputError, match=r"targets\[1\] must be a dictionary of tensors, found list"):
        check_targets([valid_target(), []], IMAGES, 5)


def test_images_without_objects_and_masks_of_the_images_own_size_are_valid():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    check_targets([empty, valid_target()], IMAGES, 5)
    sizes = torch.tensor([[64, 96], [50, 60]])
    check_targets([valid_target(), valid_target(masks=torch.ones(1, 50, 60))], IMAGES, 5, sizes, masks=True)
