"""Encoding of boxes, and suppression compared with the plain algorithm."""

from __future__ import annotations

import torch
from torchvision.ops import box_iou

from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, suppress, suppress_batch


def random_boxes(count: int, side: float = 100.0) -> torch.Tensor:
    low = torch.rand(count, 2, dtype=torch.float64) * side * 0.7
    return torch.cat([low, low + 1 + torch.rand(count, 2, dtype=torch.float64) * side * 0.3], dim=1)


def test_decoding_inverts_encoding():
    torch.manual_seed(0)
    boxes, anchors = random_boxes(50), random_boxes(50)
    for stds in ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)):
        torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors, stds), anchors, stds), boxes)


def test_growth_and_shrinkage_of_a_box_are_limited():
    anchor = torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    wide, narrow = (decode_boxes(torch.tensor([[0.0, 0.0, size, size]]), anchor)[0] for size in (50.0, -50.0))
    torch.testing.assert_close(wide[2] - wide[0], torch.tensor(625.0))
    torch.testing.assert_close(narrow[2] - narrow[0], torch.tensor(0.16), rtol=1e-4, atol=0)


def test_boxes_are_clipped_to_the_size_of_their_own_image():
    boxes = torch.tensor([[-5.0, -5.0, 300.0, 300.0]]).expand(2, 1, 4)
    clipped = clip_boxes(boxes, torch.tensor([[20, 30], [40, 10]]))
    assert clipped[:, 0].tolist() == [[0, 0, 30, 20], [0, 0, 10, 40]]


def test_suppression_is_greedy_within_each_group():
    torch.manual_seed(1)
    boxes, scores, groups = random_boxes(120), torch.rand(120, dtype=torch.float64), torch.randint(0, 3, (120,))
    expected: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        rivals = [other for other in expected if groups[other] == groups[index]]
        free = not rivals or box_iou(boxes[index : index + 1], boxes[rivals]).max() <= 0.4
        if scores[index] > 0.2 and free:
            expected.append(index)
    indices, valid = suppress(boxes, scores, groups, score_threshold=0.2, iou_threshold=0.4, max_boxes=120)
    assert indices[valid].tolist() == expected
    assert 10 < len(expected) < 100
    indices, valid = suppress(boxes, scores, groups, score_threshold=0.2, iou_threshold=0.4, max_boxes=5)
    assert indices.tolist() == expected[:5]


def test_without_a_detection_the_result_is_only_padding():
    boxes = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 4.0, 4.0]]])  # one without area, one below the threshold
    scores = torch.tensor([[0.9, 0.1]])
    _, kept_scores, _ = suppress_batch(
        boxes, scores, torch.zeros(1, 2, dtype=torch.int64), score_threshold=0.5, iou_threshold=0.5, max_boxes=100
    )
    assert kept_scores.tolist() == [[-torch.inf, -torch.inf]]
