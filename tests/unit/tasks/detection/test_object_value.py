"""The value that explains an object is the one that its own score comes from."""

from __future__ import annotations

import pytest
import torch

from twins.tasks.detection.network import object_value

SIZE = (90, 120)


@pytest.mark.parametrize("head", ["retinanet", "faster_rcnn", "mask_rcnn"])
def test_each_object_has_its_own_value_not_the_highest_of_its_class(detector, head):
    model = detector(head)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 96))
    (prediction,) = model.decode(outputs, None, [SIZE])  # the image is larger than the input
    assert len(prediction) > 20
    for label, score, box in zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes, strict=True):
        value = object_value(outputs, label, score, box, SIZE)
        if head == "retinanet":
            found = value.sigmoid()
        elif head == "faster_rcnn":
            logits = outputs["logits"][0]
            found = logits[(logits[:, label] == value).nonzero()[0, 0]].softmax(dim=0)[label]
        else:
            found = value
        assert float(found) == pytest.approx(score, abs=1e-5)
