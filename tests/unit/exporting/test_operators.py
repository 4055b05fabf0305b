"""Suppression in an ONNX file selects the boxes that PyTorch selects, in both runtimes, with any batch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from twins.exporting.operators import translations
from twins.exporting.sessions import compile_openvino, openvino_core
from twins.heads.boxes import suppress_batch


class Suppression(torch.nn.Module):
    def __init__(self, score_threshold: float) -> None:
        super().__init__()
        self.score_threshold = score_threshold

    def forward(self, boxes, scores):
        return suppress_batch(boxes, scores, score_threshold=self.score_threshold, iou_threshold=0.5, max_boxes=50)


def candidates(batch, *, shared):
    low = torch.rand(batch, 1 if shared else 6, 90, 2) * 100
    return torch.cat([low, low + 5 + torch.rand(low.shape) * 40], dim=-1), torch.rand(batch, 6, 90)


def runtimes(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    compiled = compile_openvino(openvino_core().read_model(path))
    yield lambda *x: session.run(None, dict(zip(names, (part.numpy() for part in x), strict=True)))
    yield lambda *x: list(compiled([part.numpy() for part in x]).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "score_threshold"),
    [(True, 0.3), (False, 2.0)],  # 2: no box is selected
)
def test_suppression_in_a_file_equals_pytorchs(tmp_path, shared, score_threshold):
    torch.manual_seed(0)
    network, batch = Suppression(score_threshold), {0: torch.export.Dim("batch")}
    arguments, path = candidates(2, shared=shared), tmp_path / "suppression.onnx"
    torch.onnx.export(
        network,
        arguments,
        dynamo=True,
        opset_version=20,
        dynamic_shapes=(batch, batch),
        custom_translation_table=translations(),
        verbose=False,
    ).save(path)
    program = torch.export.export(network, arguments, dynamic_shapes=(batch, batch)).module()
    for images in (1, 3):
        x = candidates(images, shared=shared)
        scores, rows = network(*x)
        valid = (scores > -torch.inf).numpy()
        assert valid.any() == (score_threshold < 1)
        for step in (*runtimes(path), program):
            actual_scores, actual_rows = (np.asarray(part) for part in step(*x))
            np.testing.assert_array_equal(actual_scores, scores.numpy())
            np.testing.assert_array_equal(actual_rows[valid], rows.numpy()[valid])
