"""Our detectors are the published ones: parameters, and torchvision's numbers where both should agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead as TheirRetinaNetHead
from torchvision.models.detection.rpn import RPNHead as TheirRPNHead
from torchvision.ops import batched_nms, box_iou, roi_align
from torchvision.ops.poolers import LevelMapper

import twins
from twins.errors import ConfigError, WeightsError
from twins.heads.anchors import grid_anchors
from twins.heads.boxes import decode_boxes, encode_boxes
from twins.heads.fpn import Levels
from twins.heads.mask import MaskHead
from twins.heads.matching import match
from twins.heads.retinanet import RetinaNetHead
from twins.heads.roi import STDS, BoxHead, pool_regions
from twins.heads.rpn import RPNHead

PARAMETERS = {  # millions, PCPVT-S/B/L then SVT-S/B/L
    "retinanet": (33.84, 53.56, 70.73, 33.78, 66.24, 109.89),
    "mask_rcnn": (43.76, 63.49, 80.65, 43.70, 75.58, 118.65),
}
MODELS = [f"twins_{family}_{size}" for family in ("pcpvt", "svt") for size in ("small", "base", "large")]
TASKS = {"retinanet": "detection", "faster_rcnn": "detection", "mask_rcnn": "instance"}


@pytest.mark.parametrize("head", PARAMETERS)
@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_published_networks(model, head):
    with torch.device("meta"):
        network = twins.create_model(model, task=TASKS[head], head=head)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert round(millions, 2) == PARAMETERS[head][MODELS.index(model)]


def levels(channels: int = 8) -> Levels:
    maps = tuple(torch.randn(2, channels, *side) for side in ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1)))
    return Levels(maps, (8, 16, 32, 64, 128), None, torch.tensor([[96, 128]] * 2))


def randomise(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


def copy(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    """Copy weights in the order of their definition."""
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.data.copy_(other.data)


def test_retinanet_gives_what_torchvisions_gives():
    torch.manual_seed(0)
    theirs, ours = TheirRetinaNetHead(8, 9, 5), RetinaNetHead(8, 5)
    randomise(theirs)
    for mine, other in (
        (ours.cls_convs, theirs.classification_head.conv),
        (ours.retina_cls, theirs.classification_head.cls_logits),
        (ours.reg_convs, theirs.regression_head.conv),
        (ours.retina_reg, theirs.regression_head.bbox_reg),
    ):
        copy(other, mine)
    pyramid = levels()
    found, expected = ours(pyramid), theirs(list(pyramid.maps))
    torch.testing.assert_close(found["logits"], expected["cls_logits"])
    torch.testing.assert_close(found["deltas"], expected["bbox_regression"])


def test_the_first_stage_gives_what_torchvisions_gives():
    torch.manual_seed(0)
    theirs, ours = TheirRPNHead(8, 3), RPNHead(8)
    randomise(theirs)
    copy(theirs, ours)
    pyramid = levels()
    scores, deltas = theirs(list(pyramid.maps))
    for level, found in enumerate(ours(pyramid).scores):
        torch.testing.assert_close(found, scores[level].permute(0, 2, 3, 1).flatten(1))
    expected = deltas[0].view(2, 3, 4, 12, 16).permute(0, 3, 4, 1, 2).reshape(2, -1, 4)
    torch.testing.assert_close(ours(pyramid).deltas[0], expected)


def test_the_second_stage_gives_what_torchvisions_gives_with_background_moved():
    torch.manual_seed(0)
    theirs = torch.nn.ModuleList([TwoMLPHead(4 * 49, 16), FastRCNNPredictor(16, 6)])
    ours = BoxHead(4, 5, channels=16)
    randomise(theirs)
    copy(theirs, ours)
    for layer, step in ((ours.fc_cls, 1), (ours.fc_reg, 4)):
        layer.weight.data = layer.weight.data.roll(-step, 0)
        layer.bias.data = layer.bias.data.roll(-step, 0)
    regions = torch.randn(7, 4, 7, 7)
    scores, deltas = theirs[1](theirs[0](regions))
    logits, boxes = ours(regions)
    torch.testing.assert_close(logits, scores.roll(-1, 1))
    torch.testing.assert_close(boxes, deltas.view(7, 6, 4)[:, 1:])


def test_the_mask_head_gives_what_torchvisions_gives():
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(MaskRCNNHeads(4, (8,) * 4, 1), MaskRCNNPredictor(8, 8, 5))
    ours = MaskHead(4, 5, channels=8)
    randomise(theirs)
    copy(theirs, ours)
    regions, labels = torch.randn(6, 4, 14, 14), torch.tensor([0, 4, 2, 1, 3, 0])
    torch.testing.assert_close(ours(regions, labels), theirs(regions)[torch.arange(6), labels])


def test_anchors_are_torchvisions_where_the_map_divides_the_image():
    generator = AnchorGenerator(((32, 48),), ((0.5, 1.0, 2.0),))
    exact = [torch.tensor([generator.cell_anchors[0].tolist()]).view(-1, 4)]
    found = grid_anchors(torch.zeros(1, 1, 5, 7), 8, (4.0, 6.0))
    expected = generator.grid_anchors([[5, 7]], [[torch.tensor(8), torch.tensor(8)]])[0]
    assert exact[0].shape == (6, 4)
    assert (found - expected).abs().max() <= 0.5  # which torchvision rounds away


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), STDS])
def test_boxes_are_coded_as_torchvision_codes_them(stds):
    torch.manual_seed(0)
    low = torch.rand(2, 40, 2) * 50
    boxes, anchors = torch.cat([low, low + 5 + torch.rand(2, 40, 2) * 40], dim=2)
    coder = BoxCoder(tuple(1 / std for std in stds))
    torch.testing.assert_close(encode_boxes(boxes, anchors, stds), coder.encode_single(boxes, anchors))
    deltas = torch.randn(40, 4)
    torch.testing.assert_close(decode_boxes(deltas, anchors, stds), coder.decode_single(deltas, anchors))


def test_matches_are_torchvisions_where_no_two_objects_want_one_anchor():
    torch.manual_seed(0)
    anchors = grid_anchors(torch.zeros(1, 1, 20, 20), 8, (4.0, 5.04, 6.35))
    boxes = torch.tensor([[10.0, 10, 50, 45], [80.0, 20, 150, 60], [60.0, 90, 75, 150]])
    for least, low_quality in ((None, False), (0.0, True)):
        expected = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality)(box_iou(boxes, anchors))
        assert torch.equal(match(anchors, boxes, positive_iou=0.5, negative_iou=0.4, min_positive_iou=least), expected)
        assert (expected >= 0).sum() > 5


def test_regions_are_pooled_as_by_torchvisions_operator_off_its_levels():
    torch.manual_seed(0)
    maps = tuple(torch.randn(2, 3, 512 // stride, 512 // stride) for stride in (4, 8, 16, 32))
    low = torch.rand(60, 2) * 100
    boxes = torch.cat([low, low + 4 + torch.rand(60, 2) * 400], dim=1)
    owners = torch.arange(60) % 2
    found = pool_regions(Levels(maps, (4, 8, 16, 32), None, torch.tensor([[512, 512]] * 2)), boxes, owners, 7)
    chosen = LevelMapper(2, 5)([boxes])
    assert len(chosen.unique()) > 2
    for row in range(60):
        region = torch.cat([owners[row : row + 1], boxes[row]])[None]
        x, scale = maps[chosen[row]], 1 / (4, 8, 16, 32)[chosen[row]]
        torch.testing.assert_close(found[row], roi_align(x, region, (7, 7), scale, 0, aligned=True)[0])


def test_detections_are_those_of_the_plain_algorithm():
    torch.manual_seed(0)
    head, pyramid = RetinaNetHead(8, 5), levels()
    randomise(head)
    head.retina_cls.bias.data.fill_(-10.0)
    head.retina_reg.weight.data *= 0.05  # boxes stay on the image
    outputs = head(pyramid)
    boxes, scores, labels = head.detections(outputs, score_threshold=0.3, iou_threshold=0.5, max_detections=100)
    for image in range(2):
        found = decode_boxes(outputs["deltas"][image], outputs["anchors"])
        found = found.clamp(min=0).minimum(torch.tensor([128.0, 96.0, 128.0, 96.0]))
        sure = outputs["logits"][image].sigmoid()
        anchor, label = torch.where(sure > 0.3)
        assert len(anchor) < 1000  # so no level is cut short
        kept = batched_nms(found[anchor], sure[anchor, label], label, 0.5)[:100]
        count = int((scores[image] > 0).sum())
        assert count == len(kept) > 20
        torch.testing.assert_close(scores[image, :count], sure[anchor, label][kept])
        torch.testing.assert_close(boxes[image, :count], found[anchor][kept])
        assert torch.equal(labels[image, :count], label[kept])


@pytest.mark.parametrize("head", TASKS)
def test_a_detector_comes_back_as_it_was_saved(head, tmp_path):
    settings = {"task": TASKS[head], "head": head, "num_classes": 4, "names": tuple("abcd"), "anchor_scale": 3.0}
    model = twins.create_model("twins_svt_nano", **settings)
    for ending in ("safetensors", "pth"):  # with the description, and told by the tensors
        path = tmp_path / f"a.{ending}"
        twins.save_weights(model, path)
        again = twins.load(path, device="cpu").model
        told = replace(model.info, names=(), anchor_scale=None) if ending == "pth" else model.info
        assert again.info == told
        saved, loaded = model.state_dict(), again.state_dict()
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[key], loaded[key]) for key in saved)


@pytest.mark.parametrize("head", TASKS)
def test_a_classifier_feeds_a_detector_when_its_head_may_be_new(head, tmp_path):
    path = tmp_path / "classifier.safetensors"
    classifier = twins.create_model("twins_svt_nano", num_classes=7)
    twins.save_weights(classifier, path)
    settings = {"task": TASKS[head], "head": head, "num_classes": 3, "weights": path}
    model = twins.create_model("twins_svt_nano", **settings, resize_head=True)
    own, backbone = model.state_dict(), classifier.backbone.state_dict(prefix="backbone.")
    assert all(torch.equal(own[key], value) for key, value in backbone.items())
    report = twins.load_weights(model, path, resize_head=True)
    assert "backbone.stages.0.norm.weight" in report.initialised
    with pytest.raises(WeightsError, match=r"missing \(\d+\): (bbox|roi|neck)"):
        twins.create_model("twins_svt_nano", **settings)


def test_a_detector_of_other_classes_gives_all_but_its_last_layer(tmp_path):
    path = tmp_path / "detector.safetensors"
    first = twins.create_model("twins_svt_nano", task="instance", num_classes=7)
    twins.save_weights(first, path)
    model = twins.create_model("twins_svt_nano", task="instance", num_classes=3, weights=path, resize_head=True)
    report = twins.load_weights(model, path, resize_head=True)
    assert {key.rpartition(".")[0] for key in report.initialised} == {
        "roi_head.bbox_head.fc_cls",
        "roi_head.bbox_head.fc_reg",
        "roi_head.mask_head.conv_logits",
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "detection", "head": "retinanett"}, "did you mean retinanet"),
        ({"task": "instance", "head": "mask-rcnn"}, "did you mean mask_rcnn"),
        ({"task": "detection", "num_classes": 0}, "num_classes must be at least 1"),
        ({"task": "detection", "anchor_scale": 0.0}, "`anchor_scale` must be above 0"),
        ({"task": "semantic", "anchor_scale": 2.0}, "`anchor_scale` is for detection and instance"),
    ],
)
def test_a_head_that_does_not_exist_is_said(settings, said):
    with pytest.raises(ConfigError, match=said):
        twins.create_model("twins_svt_nano", **settings)


def test_published_defaults():
    with torch.device("meta"):
        model = twins.create_model("twins_pcpvt_small", task="detection")
    assert (model.info.head, model.num_classes, model.info.stage_norms) == ("retinanet", 80, False)
    assert (model.info.preprocess.size, model.info.preprocess.longest) == (800, 1333)
    assert (model.selection.score, model.selection.nms, model.selection.most) == (0.05, 0.5, 100)
