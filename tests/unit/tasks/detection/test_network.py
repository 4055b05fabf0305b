"""Detectors: batch invariance, losses for any number of objects, boxes in pixels of the user's image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

import twins
from twins.errors import ConfigError, InputError
from twins.tasks.detection.network import Detection
from twins.tasks.inference import SelectionConfig

HEADS = ["retinanet", "faster_rcnn"]
SIZES = torch.tensor([[96, 64], [47, 70], [64, 96]])


def alone(batch, index, sizes=SIZES):
    height, width = sizes[index].tolist()
    return batch[index : index + 1, :, :height, :width]


def objects(count: int, side: int = 64) -> dict[str, torch.Tensor]:
    top_left = torch.rand(count, 2) * side * 0.6
    boxes = torch.cat([top_left, top_left + 4 + torch.rand(count, 2) * side * 0.3], dim=1)
    return {"boxes": boxes, "labels": torch.randint(0, 5, (count,))}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("padding", ["exact", "reference"])
def test_an_image_alone_equals_the_image_in_a_batch(detector, padded, head, padding):
    model = detector(head, padding=padding).double()
    batch = padded(SIZES, torch.float64)
    with torch.inference_mode():
        boxes, scores, labels = model.detections(model(batch, SIZES))
        for index in range(len(SIZES)):
            single_boxes, single_scores, single_labels = model.detections(model(alone(batch, index)))
            count = int((single_scores > 0).sum())
            assert count > 40
            assert len(single_labels[0, :count].unique()) > 2
            assert (scores[index, count:] == 0).all()
            torch.testing.assert_close(boxes[index, :count], single_boxes[0, :count], atol=1e-6, rtol=0)
            torch.testing.assert_close(scores[index, :count], single_scores[0, :count], atol=1e-9, rtol=0)
            assert torch.equal(labels[index, :count], single_labels[0, :count])


@pytest.mark.parametrize("head", HEADS)
def test_an_image_alone_equals_the_image_in_a_batch_in_float32_too(detector, padded, head):
    model = detector(head)
    batch = padded(SIZES, torch.float32)
    originals = [tuple(size) for size in SIZES.tolist()]
    with torch.inference_mode():
        together = model.decode(model(batch, SIZES), SIZES, originals)
        for index, one in enumerate(together):
            other = model.decode(model(alone(batch, index)), None, originals[index : index + 1])[0]
            far = np.abs(one.boxes[:, None] - other.boxes).max(axis=2) > 0.05
            far |= np.abs(one.scores[:, None] - other.scores) > 1e-3
            far |= one.labels[:, None] != other.labels
            pairs = ~far
            assert len(one.boxes) > 40
            # an IoU or score near a threshold may fall on either side of it
            assert pairs.any(axis=1).sum() >= len(one.boxes) - 2
            assert pairs.any(axis=0).sum() >= len(other.boxes) - 2


def test_the_raw_outputs_of_an_image_do_not_depend_on_its_batch(detector, padded):
    model = detector("retinanet").double()
    batch = padded(SIZES, torch.float64)
    with torch.inference_mode():
        together, single = model(batch, SIZES), model(alone(batch, 1))
    inside = together["logits"][1, :, 0] > -torch.inf
    assert inside.sum() == single["logits"].shape[1]
    for name in ("logits", "deltas"):
        torch.testing.assert_close(together[name][1, inside], single[name][0], atol=1e-9, rtol=0)
    assert torch.equal(together["anchors"][inside], single["anchors"])


def test_boxes_are_in_pixels_of_the_users_image(detector, padded):
    model = detector("retinanet").double()
    batch = padded(SIZES, torch.float64)
    with torch.inference_mode():
        outputs = model(batch, SIZES)
        plain = model.decode(outputs, SIZES, [tuple(size) for size in SIZES.tolist()])
        large = model.decode(outputs, SIZES, [(300, 100), (94, 210), (32, 32)])
    for one, other, size in zip(plain, large, SIZES.tolist(), strict=True):
        height, width = other.size
        factors = np.array([width / size[1], height / size[0]] * 2)
        np.testing.assert_allclose(other.boxes, one.boxes * factors, atol=1e-3)
        assert other.boxes.min() >= 0
        assert other.boxes[:, 2].max() <= width
        assert other.boxes[:, 3].max() <= height
        assert (np.diff(other.scores) <= 0).all()
        assert (other.boxes.dtype, other.scores.dtype, other.labels.dtype) == (np.float32, np.float32, np.int64)


@pytest.mark.parametrize("head", HEADS)
def test_selection_settings_select_the_objects(detector, padded, head):
    model = detector(head)
    image = padded(SIZES[:1], torch.float32)
    with torch.inference_mode():
        outputs = model(image)
        model.selection = SelectionConfig(score=0.0, nms=1.0)
        all_objects = model.decode(outputs, None, [(96, 64)])[0]
        model.selection = SelectionConfig(score=0.4, nms=0.3, most=20)
        selected = model.decode(outputs, None, [(96, 64)])[0]
        model.selection = SelectionConfig(score=0.4, nms=0.3, most=20, agnostic=True)
        agnostic = model.decode(outputs, None, [(96, 64)])[0]
        model.selection = SelectionConfig(score=0.999999)
        empty = model.decode({**outputs, "logits": outputs["logits"] * 0}, None, [(96, 64)])[0]
    assert len(all_objects.boxes) == 100
    assert 3 < len(selected.boxes) <= 20
    assert selected.scores.min() > 0.4
    for label in set(selected.labels.tolist()):
        boxes = torch.from_numpy(selected.boxes[selected.labels == label])
        assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.3
    boxes = torch.from_numpy(agnostic.boxes)
    assert len(boxes) > 1
    assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.3
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize("head", HEADS)
def test_losses_are_finite_for_any_number_of_objects(head):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="detection", head=head, num_classes=5).train()
    images = torch.randn(3, 3, 64, 64)
    for counts in ((0, 0, 0), (1, 0, 1000)):
        model.zero_grad()
        losses = model.losses(images, [objects(count) for count in counts])
        assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
        sum(losses.values()).backward()
        without_gradient = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not without_gradient
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.any() for parameter in model.parameters())  # with objects, every parameter has a gradient


@pytest.mark.parametrize("head", HEADS)
def test_losses_do_not_depend_on_padding(head):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="detection", head=head, num_classes=5).double()
    sizes = torch.tensor([[64, 96], [50, 40]])
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    targets = [objects(3), objects(2, side=40)]
    torch.manual_seed(1)
    first = model.losses(images, targets, sizes)
    images[1, :, 50:] = images[1, :, :, 40:] = 7.0
    torch.manual_seed(1)
    second = model.losses(images, targets, sizes)
    for name, loss in first.items():
        torch.testing.assert_close(second[name], loss, atol=1e-9, rtol=0)
    if head == "retinanet":  # without sampling: the mean of the images' losses, weighted by matched anchors
        single = [model.losses(alone(images, i, sizes), targets[i : i + 1]) for i in range(2)]
        low, high = sorted(one["classification"].item() for one in single)
        assert low <= first["classification"] <= high


def test_anchors_in_a_crowd_region_are_not_background(detector):
    model = detector("retinanet").train()
    images, target = torch.randn(1, 3, 64, 64), objects(1)
    crowd = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    plain, crowded = (model.losses(images, [one]) for one in (target, target | {"crowd": crowd}))
    assert crowded["classification"] < plain["classification"]
    assert torch.equal(crowded["boxes"], plain["boxes"])


@pytest.mark.parametrize("head", HEADS)
def test_sampling_depends_on_the_seed_alone(head):
    model = twins.create_model("twins_svt_nano", task="detection", head=head, num_classes=5).train()
    images, targets = torch.randn(1, 3, 64, 64), [objects(3)]

    def losses() -> list[float]:
        torch.manual_seed(3)
        return [loss.item() for loss in model.losses(images, targets).values()]

    assert losses() == losses()


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_few_steps_fit_one_image(head):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="detection", head=head, num_classes=2).train()
    images = torch.zeros(1, 3, 64, 64)
    images[:, 0, 16:48, 8:40] = 3
    target = {"boxes": torch.tensor([[8.0, 16.0, 40.0, 48.0]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(60 if head == "retinanet" else 30):
        loss = sum(model.losses(images, [target]).values())
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.6 * history[0]
    prediction = model.eval().decode(model(images), None, [(64, 64)])[0]
    best = torch.from_numpy(prediction.boxes[:1])
    assert prediction.labels[0] == 1
    assert box_iou(best, target["boxes"]) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, SIZES])
@pytest.mark.usefixtures("few_blocks")
def test_retinanet_compiles_as_one_graph(detector, padded, sizes):
    model = detector("retinanet")
    images = padded(SIZES, torch.float32) if sizes is not None else torch.randn(2, 3, 64, 64)
    torch.compiler.reset()  # otherwise a second size makes a graph of dynamic size
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, outputs = model(images, sizes), compiled(images, sizes)
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, atol=1e-4, rtol=1e-4)


def test_invalid_settings_and_targets_are_errors():
    backbone = twins.create_backbone("twins_svt_nano", out_indices=(1, 2, 3))
    info = twins.create_model("twins_svt_nano", task="detection", num_classes=2).info
    with pytest.raises(ConfigError, match="all four maps"):
        Detection(backbone, info)
    four_maps = twins.create_backbone("twins_svt_nano")
    with pytest.raises(ConfigError, match="did you mean retinanet"):
        Detection(four_maps, replace(info, head="retinanett"))
    with pytest.raises(ConfigError, match="num_classes must be at least 1"):
        Detection(four_maps, replace(info, num_classes=0))
    with pytest.raises(ConfigError, match="anchor_scale must be above 0"):
        Detection(four_maps, replace(info, anchor_scale=-1.0))
    model = Detection(four_maps, info)
    with pytest.raises(InputError, match="label 2, the classes are 0 to 1"):
        model.losses(torch.zeros(1, 3, 64, 64), [objects(1) | {"labels": torch.tensor([2])}])
    with pytest.raises(ConfigError, match="`norm` is for semantic"):
        twins.create_model("twins_svt_nano", task="detection", norm="group")
    for settings, name in (({"score": 1.0}, "`score`"), ({"nms": 0.0}, "`nms`"), ({"most": 0}, "`most`")):
        with pytest.raises(ConfigError, match=name):
            SelectionConfig(**settings)


def test_anchor_scale_sets_the_size_of_anchors():
    published, small = (
        twins.create_model("twins_svt_nano", task="detection", anchor_scale=scale).eval() for scale in (None, 2.0)
    )
    with torch.inference_mode():
        small_anchors, anchors = (model(torch.zeros(1, 3, 64, 64))["anchors"] for model in (small, published))
    sides = small_anchors[:, 2:] - small_anchors[:, :2]
    torch.testing.assert_close(2 * sides, anchors[:, 2:] - anchors[:, :2])
    assert sides.min() < 12


def test_checkpointing_keeps_the_losses_and_the_peg_has_no_weight_decay():
    model = twins.create_model("twins_svt_nano", task="detection", num_classes=2).train()
    images, targets = torch.randn(1, 3, 64, 64), [objects(2) | {"labels": torch.tensor([0, 1])}]
    plain = model.losses(images, targets)
    model.set_grad_checkpointing()
    checkpointed = model.losses(images, targets)
    assert all(torch.allclose(plain[name], checkpointed[name]) for name in plain)
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    assert all(".position." in name for name in model.no_weight_decay())
