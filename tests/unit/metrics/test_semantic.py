"""IoU and boundary F1 against hand-made counts, torchmetrics, real label maps and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from twins.data.classes import built_in
from twins.data.formats.masks import IGNORE, MaskReader
from twins.errors import ConfigError
from twins.metrics.semantic import SemanticMetric, boundary_f1
from twins.predictions import Prediction

NAMES = ("a", "b", "c", "d")


def predicted(label_map) -> Prediction:
    label_map = np.asarray(label_map, dtype=np.uint8)
    return Prediction(task="semantic", size=label_map.shape, names=NAMES, label_map=label_map)


def metric_of(pairs, names=NAMES, **settings) -> SemanticMetric:
    metric = SemanticMetric(names, **settings)
    for label_map, truth in pairs:
        metric.update([predicted(label_map)], [np.asarray(truth)])
    return metric


def random_pairs(count: int, *, classes: int = 4, seed: int = 0):
    """Label maps and ground truths of different sizes; a quarter of the pixels are ignored, a third are random."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        truth = rng.integers(0, classes, (9 + index, 14 - index))
        label_map = np.where(rng.random(truth.shape) < 1 / 3, rng.integers(0, classes, truth.shape), truth)
        yield label_map, np.where(rng.random(truth.shape) < 1 / 4, IGNORE, truth)


def test_metrics_equal_those_computed_by_hand():
    # pixels of a: 2 right, 1 predicted as b; of b: 1 right, 1 predicted as c; no pixels of c and d
    metric = metric_of([([[0, 0, 1, 3], [1, 2, 3, 3]], [[0, 0, 0, 255], [1, 1, 255, 255]])])
    metrics = metric.compute()
    assert metrics["miou"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)  # c is predicted, d is absent
    assert metrics["pixel_accuracy"] == pytest.approx(3 / 5)
    assert metrics["mean_class_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert set(metrics) == {"miou", "pixel_accuracy", "mean_class_accuracy"}
    details = metric.details()
    assert details["confusion"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    rows = {row.pop("name"): row for row in details["per_class"]}
    assert rows["b"] == {"pixels": 2, "iou": pytest.approx(1 / 3), "accuracy": 0.5}
    assert rows["c"] == {"pixels": 0, "iou": 0.0, "accuracy": None}
    assert rows["d"] == {"pixels": 0, "iou": None, "accuracy": None}


def test_absent_classes_are_left_out_or_count_as_zero():
    pair = ([[0, 0, 1, 1]], [[0, 0, 1, 0]])
    assert metric_of([pair]).compute()["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metric_of([pair], absent="zero").compute()["miou"] == pytest.approx((2 / 3 + 1 / 2) / 4)
    with pytest.raises(ConfigError, match="'none'"):
        SemanticMetric(NAMES, absent="none")


@pytest.mark.parametrize("classes", [3, 4])  # of four: with three, one is absent
def test_metrics_equal_torchmetrics_on_random_maps_with_ignored_pixels(classes):
    pairs = list(random_pairs(5, classes=classes))
    flat = [torch.from_numpy(np.concatenate([np.ravel(pair[part]) for pair in pairs])) for part in (0, 1)]
    metrics = metric_of(pairs).compute()
    references = {
        "miou": MulticlassJaccardIndex(4, ignore_index=IGNORE),
        "pixel_accuracy": MulticlassAccuracy(4, average="micro", ignore_index=IGNORE),
        "mean_class_accuracy": MulticlassAccuracy(4, average="macro", ignore_index=IGNORE),
    }
    for name, metric in references.items():
        assert metrics[name] == pytest.approx(metric(*flat).item(), abs=1e-6), name


def test_real_predictions_equal_to_the_ground_truth_give_the_published_numbers(sample_data):
    folder = sample_data / "semantic" / "ade_sample"
    classes = built_in("ade20k")
    read = MaskReader(classes, ignore=(0,))
    names = sorted(path.name for path in (folder / "annotations").iterdir())
    assert len(names) == 3
    pairs = [(read(folder / "predictions" / name), read(folder / "annotations" / name)) for name in names]
    left_out = metric_of(pairs, classes.names, boundary=True).compute()
    assert left_out == dict.fromkeys(("miou", "pixel_accuracy", "mean_class_accuracy", "boundary_f1"), 1.0)
    zero = metric_of(pairs, classes.names, absent="zero").compute()
    assert zero["miou"] == pytest.approx(0.1000, abs=1e-9)  # 15 of 150 classes, as in the ADE20K toolkit
    assert zero["pixel_accuracy"] == 1.0


def test_merged_states_equal_one_process():
    pairs = list(random_pairs(5))
    single = metric_of(pairs, boundary=True)
    merged = SemanticMetric(NAMES, boundary=True)
    merged.merge([metric_of(part, boundary=True).state() for part in (pairs[:2], pairs[2:], [])])
    assert merged.compute() == pytest.approx(single.compute(), abs=1e-12)
    assert merged.details()["confusion"] == single.details()["confusion"]


def test_a_state_is_a_copy_and_its_size_does_not_grow():
    def size(state):
        return sum(value.nbytes for value in state.values())

    metric = SemanticMetric(NAMES, boundary=True)
    empty = metric.state()
    metric.update(*zip(*[(predicted(label_map), truth) for label_map, truth in random_pairs(5)], strict=True))
    assert size(metric.state()) == size(empty)
    assert all(not value.any() for value in empty.values())
    metric.reset()
    assert metric.compute() == {}


def test_targets_may_be_arrays_or_tensors_of_any_integer_type():
    label_map, truth = next(random_pairs(1))
    expected = metric_of([(label_map, truth)]).details()
    for dtype in (torch.uint8, torch.int32, torch.int64):
        metric = SemanticMetric(NAMES)
        metric.update([predicted(label_map)], torch.from_numpy(truth).to(dtype)[None])
        assert metric.details() == expected


@pytest.mark.parametrize("pairs", [[], [([[0, 1], [2, 3]], np.full((2, 2), IGNORE))]])
def test_without_counted_pixels_there_are_no_metrics(pairs):
    metric = metric_of(pairs, boundary=True)
    assert metric.compute() == {}
    assert all(row["iou"] is None and row["boundary_f1"] is None for row in metric.details()["per_class"])


def halves(column: int, side: int = 400):
    """A square label map of two classes that meet at a column; the tolerance is 4.2 pixels."""
    return (np.arange(side) >= column)[None].repeat(side, 0).astype(np.int64)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (3, 1.0), (4, 1.0), (5, 0.0)])
def test_a_boundary_matches_within_the_tolerance(shift, expected):
    metrics = metric_of([(halves(200 + shift), halves(200))], boundary=True).compute()
    assert metrics["boundary_f1"] == pytest.approx(expected, abs=1e-12)
    assert metrics["miou"] > 0.97  # mean IoU hardly changes


def test_boundaries_in_ignored_pixels_do_not_count():
    truth, label_map = halves(200), halves(200)
    label_map[:, 350:], truth[:, 300:] = 0, IGNORE
    assert metric_of([(label_map, truth)], boundary=True).compute()["boundary_f1"] == 1.0
    assert metric_of([(label_map, halves(200))], boundary=True).compute()["boundary_f1"] < 0.9


def test_a_class_that_fills_the_image_has_no_boundary_f1():
    uniform = np.zeros((20, 20), dtype=np.int64)
    assert "boundary_f1" not in metric_of([(uniform, uniform)], boundary=True).compute()
    missed = metric_of([(uniform, halves(10, 20))], boundary=True).details()["per_class"]
    assert missed[1]["boundary_f1"] == 0.0


def brute_force_f1(predicted_mask: np.ndarray, truth: np.ndarray, distance: float) -> float | None:
    def boundary(mask):
        rows, columns = mask.shape
        sides = ((0, 1), (1, 0), (0, -1), (-1, 0))
        near = [(r, c, r + i, c + j) for r in range(rows) for c in range(columns) for i, j in sides]
        inside = [(r, c) for r, c, y, x in near if 0 <= y < rows and 0 <= x < columns and mask[r, c] and not mask[y, x]]
        return np.array(sorted(set(inside)), dtype=float).reshape(-1, 2)

    true_pixels, predicted_pixels = boundary(truth), boundary(predicted_mask)
    if not len(true_pixels) or not len(predicted_pixels):
        return 0.0 if len(true_pixels) else None
    near = ((true_pixels[:, None] - predicted_pixels[None]) ** 2).sum(axis=2) <= distance**2
    recall, precision = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("distance", [1.0, 2.0, 2.9])
def test_boundary_f1_equals_brute_force_over_all_distances(distance):
    rng = np.random.default_rng(0)
    scores = []
    for share in (0.0, 0.02, 0.05, 0.5, 0.95, 1.0):
        for _ in range(4):
            masks = [rng.random((11, 13)) < share for _ in range(2)]
            scores.append(boundary_f1(*masks, distance))
            assert scores[-1] == pytest.approx(brute_force_f1(*masks, distance), abs=1e-12)
    assert None in scores
    assert len(set(scores)) > 6
