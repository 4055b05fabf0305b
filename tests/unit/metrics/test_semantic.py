"""Intersection over union and boundary scores against hand-made counts, torchmetrics, real maps and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from twins.data.classes import built_in
from twins.data.formats.masks import IGNORE, MaskReader
from twins.errors import ConfigError
from twins.metrics.semantic import SemanticMetric, boundary_score
from twins.predictions import Prediction

NAMES = ("a", "b", "c", "d")


def said(label_map) -> Prediction:
    label_map = np.asarray(label_map, dtype=np.uint8)
    return Prediction(task="semantic", size=label_map.shape, names=NAMES, label_map=label_map)


def measured(pairs, names=NAMES, **settings) -> SemanticMetric:
    metric = SemanticMetric(names, **settings)
    for label_map, truth in pairs:
        metric.update([said(label_map)], [np.asarray(truth)])
    return metric


def random_pairs(count: int, *, classes: int = 4, seed: int = 0):
    """Pairs of a map and its truth, of different sizes, a quarter of the pixels ignored and a third of them wrong."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        truth = rng.integers(0, classes, (9 + index, 14 - index))
        label_map = np.where(rng.random(truth.shape) < 1 / 3, rng.integers(0, classes, truth.shape), truth)
        yield label_map, np.where(rng.random(truth.shape) < 1 / 4, IGNORE, truth)


def test_numbers_are_those_worked_out_by_hand():
    # of the counted pixels a: 2 right, 1 called b; b: 1 right, 1 called c; c and d are never true
    metric = measured([([[0, 0, 1, 3], [1, 2, 3, 3]], [[0, 0, 0, 255], [1, 1, 255, 255]])])
    found = metric.compute()
    assert found["miou"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)  # c was said, d neither said nor true
    assert found["pixel_accuracy"] == pytest.approx(3 / 5)
    assert found["mean_class_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert set(found) == {"miou", "pixel_accuracy", "mean_class_accuracy"}
    details = metric.details()
    assert details["confusion"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    rows = {row.pop("name"): row for row in details["per_class"]}
    assert rows["b"] == {"pixels": 2, "iou": pytest.approx(1 / 3), "accuracy": 0.5}
    assert rows["c"] == {"pixels": 0, "iou": 0.0, "accuracy": None}
    assert rows["d"] == {"pixels": 0, "iou": None, "accuracy": None}


def test_a_class_that_nothing_has_counts_as_the_convention_says():
    pair = ([[0, 0, 1, 1]], [[0, 0, 1, 0]])
    assert measured([pair]).compute()["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert measured([pair], absent="zero").compute()["miou"] == pytest.approx((2 / 3 + 1 / 2) / 4)
    with pytest.raises(ConfigError, match="'none'"):
        SemanticMetric(NAMES, absent="none")


@pytest.mark.parametrize("classes", [3, 4])  # of four; with three, one is absent
def test_numbers_are_torchmetrics_on_random_maps_with_ignored_pixels(classes):
    pairs = list(random_pairs(5, classes=classes))
    flat = [torch.from_numpy(np.concatenate([np.ravel(pair[part]) for pair in pairs])) for part in (0, 1)]
    found = measured(pairs).compute()
    theirs = {
        "miou": MulticlassJaccardIndex(4, ignore_index=IGNORE),
        "pixel_accuracy": MulticlassAccuracy(4, average="micro", ignore_index=IGNORE),
        "mean_class_accuracy": MulticlassAccuracy(4, average="macro", ignore_index=IGNORE),
    }
    for name, metric in theirs.items():
        assert found[name] == pytest.approx(metric(*flat).item(), abs=1e-6), name


def test_real_predictions_equal_to_their_truth_give_the_published_numbers(sample_data):
    folder = sample_data / "semantic" / "ade_sample"
    classes = built_in("ade20k")
    read = MaskReader(classes, ignore=(0,))
    names = sorted(path.name for path in (folder / "annotations").iterdir())
    assert len(names) == 3
    pairs = [(read(folder / "predictions" / name), read(folder / "annotations" / name)) for name in names]
    left_out = measured(pairs, classes.names, boundary=True).compute()
    assert left_out == dict.fromkeys(("miou", "pixel_accuracy", "mean_class_accuracy", "boundary_f1"), 1.0)
    zero = measured(pairs, classes.names, absent="zero").compute()
    assert zero["miou"] == pytest.approx(0.1000, abs=1e-9)  # 15 of 150 classes, as the ADE20K toolkit says
    assert zero["pixel_accuracy"] == 1.0


def test_states_of_processes_add_up_to_the_whole():
    pairs = list(random_pairs(5))
    whole = measured(pairs, boundary=True)
    merged = SemanticMetric(NAMES, boundary=True)
    merged.merge([measured(part, boundary=True).state() for part in (pairs[:2], pairs[2:], [])])
    assert merged.compute() == pytest.approx(whole.compute(), abs=1e-12)
    assert merged.details()["confusion"] == whole.details()["confusion"]


def test_a_state_is_a_copy_of_a_size_that_does_not_grow():
    def size(state):
        return sum(value.nbytes for value in state.values())

    metric = SemanticMetric(NAMES, boundary=True)
    empty = metric.state()
    metric.update(*zip(*[(said(found), truth) for found, truth in random_pairs(5)], strict=True))
    assert size(metric.state()) == size(empty)
    assert all(not value.any() for value in empty.values())
    metric.reset()
    assert metric.compute() == {}


def test_truth_comes_as_arrays_or_tensors_of_any_integer_type():
    found, truth = next(random_pairs(1))
    expected = measured([(found, truth)]).details()
    for kind in (torch.uint8, torch.int32, torch.int64):
        metric = SemanticMetric(NAMES)
        metric.update([said(found)], torch.from_numpy(truth).to(kind)[None])
        assert metric.details() == expected


@pytest.mark.parametrize("pairs", [[], [([[0, 1], [2, 3]], np.full((2, 2), IGNORE))]])
def test_nothing_counted_gives_no_numbers(pairs):
    metric = measured(pairs, boundary=True)
    assert metric.compute() == {}
    assert all(row["iou"] is None and row["boundary_f1"] is None for row in metric.details()["per_class"])


def halves(column: int, side: int = 400):
    """A square map of two classes that meet at a column; its tolerance is 4.2 pixels."""
    return (np.arange(side) >= column)[None].repeat(side, 0).astype(np.int64)


@pytest.mark.parametrize(("moved", "expected"), [(0, 1.0), (3, 1.0), (4, 1.0), (5, 0.0)])
def test_a_boundary_counts_until_it_has_moved_further_than_the_tolerance(moved, expected):
    found = measured([(halves(200 + moved), halves(200))], boundary=True).compute()
    assert found["boundary_f1"] == pytest.approx(expected, abs=1e-12)
    assert found["miou"] > 0.97  # which hardly tells


def test_boundaries_are_compared_only_where_the_truth_is_known():
    truth, found = halves(200), halves(200)
    found[:, 350:], truth[:, 300:] = 0, IGNORE
    assert measured([(found, truth)], boundary=True).compute()["boundary_f1"] == 1.0
    assert measured([(found, halves(200))], boundary=True).compute()["boundary_f1"] < 0.9


def test_a_class_without_a_boundary_has_no_boundary_score():
    whole = np.zeros((20, 20), dtype=np.int64)
    assert "boundary_f1" not in measured([(whole, whole)], boundary=True).compute()
    missed = measured([(whole, halves(10, 20))], boundary=True).details()["per_class"]
    assert missed[1]["boundary_f1"] == 0.0


def brute_force_score(said: np.ndarray, truth: np.ndarray, distance: float) -> float | None:
    def boundary(mask):
        rows, columns = mask.shape
        sides = ((0, 1), (1, 0), (0, -1), (-1, 0))
        near = [(r, c, r + i, c + j) for r in range(rows) for c in range(columns) for i, j in sides]
        inside = [(r, c) for r, c, y, x in near if 0 <= y < rows and 0 <= x < columns and mask[r, c] and not mask[y, x]]
        return np.array(sorted(set(inside)), dtype=float).reshape(-1, 2)

    wanted, found = boundary(truth), boundary(said)
    if not len(wanted) or not len(found):
        return 0.0 if len(wanted) else None
    near = ((wanted[:, None] - found[None]) ** 2).sum(axis=2) <= distance**2
    recall, precision = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("distance", [1.0, 2.0, 2.9])
def test_boundary_scores_equal_brute_force_by_distances(distance):
    rng = np.random.default_rng(0)
    scores = []
    for share in (0.0, 0.02, 0.05, 0.5, 0.95, 1.0):
        for _ in range(4):
            masks = [rng.random((11, 13)) < share for _ in range(2)]
            scores.append(boundary_score(*masks, distance))
            assert scores[-1] == pytest.approx(brute_force_score(*masks, distance), abs=1e-12)
    assert None in scores
    assert len(set(scores)) > 6
