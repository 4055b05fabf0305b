"""Boxes: coding, and suppression against the plain algorithm."""

from __future__ import annotations

import torch
from torchvision.ops import box_iou

from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, pick, suppress


def some_boxes(count: int, side: float = 100.0) -> torch.Tensor:
    low = torch.rand(count, 2, dtype=torch.float64) * side * 0.7
    return torch.cat([low, low + 1 + torch.rand(count, 2, dtype=torch.float64) * side * 0.3], dim=1)


def test_what_is_encoded_decodes_to_itself():
    torch.manual_seed(0)
    boxes, anchors = some_boxes(50), some_boxes(50)
    for stds in ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)):
        torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors, stds), anchors, stds), boxes)


def test_no_box_grows_without_bound_nor_vanishes():
    anchor = torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    wide, narrow = (decode_boxes(torch.tensor([[0.0, 0.0, size, size]]), anchor)[0] for size in (50.0, -50.0))
    torch.testing.assert_close(wide[2] - wide[0], torch.tensor(625.0))
    torch.testing.assert_close(narrow[2] - narrow[0], torch.tensor(0.16), rtol=1e-4, atol=0)


def test_each_image_has_its_own_limits():
    boxes = torch.tensor([[-5.0, -5.0, 300.0, 300.0]]).expand(2, 1, 4)
    clipped = clip_boxes(boxes, torch.tensor([[20, 30], [40, 10]]))
    assert clipped[:, 0].tolist() == [[0, 0, 30, 20], [0, 0, 10, 40]]


def test_suppression_is_greedy_in_each_group():
    torch.manual_seed(1)
    boxes, scores, groups = some_boxes(120), torch.rand(120, dtype=torch.float64), torch.randint(0, 3, (120,))
    expected: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        rivals = [other for other in expected if groups[other] == groups[number]]
        free = not rivals or box_iou(boxes[number : number + 1], boxes[rivals]).max() <= 0.4
        if scores[number] > 0.2 and free:
            expected.append(number)
    numbers, meant = suppress(boxes, scores, groups, score_threshold=0.2, iou_threshold=0.4, max_boxes=120)
    assert numbers[meant].tolist() == expected
    assert 10 < len(expected) < 100
    numbers, meant = suppress(boxes, scores, groups, score_threshold=0.2, iou_threshold=0.4, max_boxes=5)
    assert numbers.tolist() == expected[:5]


def test_nothing_found_is_padding_alone():
    boxes = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 4.0, 4.0]]])  # one without area, one too unsure
    scores = torch.tensor([[0.9, 0.1]])
    _, found, _ = pick(
        boxes, scores, torch.zeros(1, 2, dtype=torch.int64), score_threshold=0.5, iou_threshold=0.5, max_boxes=100
    )
    assert found.tolist() == [[-torch.inf, -torch.inf]]
