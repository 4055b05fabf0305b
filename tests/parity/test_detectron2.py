"""RetinaNet in detectron2's layout computes what detectron2 computes: pyramid, head, anchors, by its names.

The names are those of pvt_detectron2's backbones and of detectron2's `FPN`, `LastLevelP6P7`, `RetinaNetHead` and
`DefaultAnchorGenerator`; the formulas here are written from their definitions, with the layers as plain functions.
"""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

import twins
from twins.cli.main import main
from twins.errors import ConfigError, WeightsError
from twins.weights.convert import convert

CLASSES, WIDTH = 5, 64
SVT, PCPVT = "twins_svt_nano", "twins_pcpvt_nano"


def _backbone_names(name, key):
    """Return pvt_detectron2's name of a tensor of a backbone."""
    if name == SVT:
        key = re.sub(r"stages\.(\d)\.position\.conv", r"pos_block.\1.proj.0", key)
        key = re.sub(r"stages\.(\d)\.patch_embed", r"patch_embeds.\1", key)
        return re.sub(r"stages\.(\d)\.blocks", r"blocks.\1", key)
    key = re.sub(r"stages\.(\d)\.position\.conv", r"pos_block.\1.proj", key)
    key = re.sub(r"stages\.(\d)\.patch_embed", lambda match: f"patch_embed{int(match[1]) + 1}", key)
    return re.sub(r"stages\.(\d)\.blocks", lambda match: f"block{int(match[1]) + 1}", key)


def _detectron2_state(name):
    """Return a state dict of detectron2 with random weights, and the backbone."""
    torch.manual_seed(3)
    backbone = twins.create_backbone(name, padding="unmasked", stage_norms=False).eval()
    state = {f"backbone.bottom_up.{_backbone_names(name, key)}": value for key, value in backbone.state_dict().items()}
    c3, c4, c5 = backbone.channels[1:]
    shapes = {f"backbone.fpn_lateral{i}": (WIDTH, width, 1, 1) for i, width in ((3, c3), (4, c4), (5, c5))}
    shapes |= {f"backbone.fpn_output{i}": (WIDTH, WIDTH, 3, 3) for i in (3, 4, 5)}
    shapes |= {"backbone.top_block.p6": (WIDTH, c5, 3, 3), "backbone.top_block.p7": (WIDTH, WIDTH, 3, 3)}
    shapes |= {f"head.{part}_subnet.{i}": (WIDTH, WIDTH, 3, 3) for part in ("cls", "bbox") for i in (0, 2, 4, 6)}
    shapes |= {"head.cls_score": (9 * CLASSES, WIDTH, 3, 3), "head.bbox_pred": (9 * 4, WIDTH, 3, 3)}
    for key, shape in shapes.items():
        state[f"{key}.weight"] = torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))
        state[f"{key}.bias"] = torch.randn(shape[0]) / 10
    state |= {"pixel_mean": torch.ones(3, 1, 1), "anchor_generator.cell_anchors.0": torch.ones(9, 4)}
    return state, backbone


def _conv(state, key, x, stride=1):
    weight = state[f"{key}.weight"]
    return F.conv2d(x, weight, state[f"{key}.bias"], stride=stride, padding=weight.shape[-1] // 2)


def _tower(state, part, last, x):
    for i in (0, 2, 4, 6):
        x = F.relu(_conv(state, f"head.{part}_subnet.{i}", x))
    return _conv(state, last, x)


def _per_anchor(x, values):
    """Rearrange `(1, A * values, H, W)` to `(H * W * A, values)`."""
    return x.view(-1, values, *x.shape[2:]).permute(2, 3, 0, 1).reshape(-1, values)


def _cell_anchors(level):
    sizes = [32 * 2**level * 2 ** (octave / 3) for octave in range(3)]
    sides = [(math.sqrt(size**2 / ratio), size, ratio) for size in sizes for ratio in (0.5, 1.0, 2.0)]
    return torch.tensor([(-w / 2, -w * r / 2, w / 2, w * r / 2) for w, _, r in sides])


def _detectron2(state, backbone, images):
    """Return logits, deltas and anchors of all anchors."""
    _, c3, c4, c5 = backbone(images)
    p5 = _conv(state, "backbone.fpn_lateral5", c5)
    p4 = _conv(state, "backbone.fpn_lateral4", c4) + F.interpolate(p5, scale_factor=2, mode="nearest")
    p3 = _conv(state, "backbone.fpn_lateral3", c3) + F.interpolate(p4, scale_factor=2, mode="nearest")
    levels = [_conv(state, f"backbone.fpn_output{i}", x) for i, x in ((3, p3), (4, p4), (5, p5))]
    levels.append(_conv(state, "backbone.top_block.p6", c5, stride=2))
    levels.append(_conv(state, "backbone.top_block.p7", F.relu(levels[-1]), stride=2))
    logits, deltas, anchors = [], [], []
    for number, x in enumerate(levels):
        logits.append(_per_anchor(_tower(state, "cls", "head.cls_score", x), CLASSES))
        deltas.append(_per_anchor(_tower(state, "bbox", "head.bbox_pred", x), 4))
        ys, xs = torch.meshgrid(*(torch.arange(side) * 8.0 * 2**number for side in x.shape[2:]), indexing="ij")
        shifts = torch.stack([xs, ys, xs, ys], dim=2).reshape(-1, 1, 4)
        anchors.append((shifts + _cell_anchors(number)).flatten(0, 1))
    return torch.cat(logits), torch.cat(deltas), torch.cat(anchors)


def _sorted(logits, deltas, anchors):
    """Order by anchor, which no two share."""
    rows = sorted(range(len(anchors)), key=lambda row: [round(value, 2) for value in anchors[row].tolist()])
    return logits[rows], deltas[rows], anchors[rows]


@pytest.fixture(params=[SVT, PCPVT])
def saved(request, tmp_path):
    state, backbone = _detectron2_state(request.param)
    torch.save({"model": state, "iteration": 89999}, tmp_path / "retinanet.pth")
    return request.param, state, backbone, tmp_path / "retinanet.pth"


@torch.no_grad()
def test_its_retinanet_is_read_and_computes_the_same(saved):
    name, state, backbone, path = saved
    model = twins.load(path, device="cpu").model
    assert (model.info.model, model.info.head, model.num_classes) == (name, "retinanet", CLASSES)
    assert (model.info.relu_before_p7, model.load_report.dialect) == (True, "detectron2")
    assert model.info.padding == ("unmasked" if name == SVT else "exact")
    images = torch.randn(1, 3, 128, 192)
    outputs = model(images)
    ours = _sorted(outputs["logits"][0], outputs["deltas"][0], outputs["anchors"])
    theirs = _sorted(*_detectron2(state, backbone, images))
    for mine, other, tolerance in zip(ours, theirs, (1e-4, 1e-4, 1e-2), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=tolerance)


@torch.no_grad()
def test_a_converted_file_computes_the_same_and_no_file_without_a_description_is_written(saved, tmp_path, capsys):
    *_, path = saved
    assert main(["convert", str(path), str(tmp_path / "ours.safetensors"), "--to", "twins"]) == 0
    images = torch.randn(1, 3, 64, 64)
    first, second = (twins.load(file, device="cpu").model for file in (path, tmp_path / "ours.safetensors"))
    assert torch.equal(first(images)["logits"], second(images)["logits"])
    for target, layout in (("a.pth", "twins"), ("a.safetensors", "timm")):
        with pytest.raises(ConfigError, match="is written in the layout twins"):
            convert(path, tmp_path / target, to=layout)
        with pytest.raises(ConfigError, match="is written in the layout twins"):
            twins.save_weights(first, tmp_path / target, layout)


def test_it_is_not_loaded_into_a_pyramid_without_its_relu(saved):
    name, *_, path = saved
    model = twins.create_model(name, task="detection", num_classes=CLASSES)
    with pytest.raises(WeightsError, match="RetinaNet with a ReLU before P7, unlike the network"):
        twins.load_weights(model, path)
    assert twins.create_model(name, task="detection", weights=path, padding="exact").info.relu_before_p7
    assert twins.create_backbone(name, weights=path, stage_norms=False).load_report.missing == ()
    new = twins.create_model(name, task="detection", num_classes=2, weights=path, resize_head=True)
    assert new.info.relu_before_p7
