"""Exported semantic networks: label maps inside the graph, predictions from a file's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twins.backbone.config import STRIDES
from twins.heads.layers import zero_outside_map
from twins.heads.resampling import resize_map
from twins.ops.padding import check_padding, reduce_sizes
from twins.predictions import Prediction
from twins.tasks.exports import Arrays, TaskExport
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.semantic.network import chunk_of, decode_logits, label_dtype, resized_argmax, to_prediction
from twins.weights.info import ModelInfo

OPEN_CHUNK = 32
"""Classes of a label map of open size that are resized at once."""


class SemanticExport:
    """The output `label_map` `(B, H, W)` at the input's size, or `logits` `(B, K, h, w)` at the head's stride."""

    def outputs(self, network: TaskNetwork, images: Tensor, sizes: Tensor | None, *, logits: bool) -> dict[str, Tensor]:
        """Return the outputs of a file; see `TaskExport.outputs`. A label map is 0 outside an image."""
        scores = network(images, sizes)["logits"].float()
        if logits:
            return {"logits": scores}
        shape = images.shape[2:]
        is_open = not all(isinstance(side, int) for side in shape)
        map_sizes = None if sizes is None else network.backbone.map_sizes(sizes)[0]
        resize = partial(resize_map, shape=shape, sizes=map_sizes, out_sizes=sizes)
        label_map = resized_argmax(scores, resize, OPEN_CHUNK if is_open else chunk_of(shape))
        return {"label_map": zero_outside_map(label_map[:, None], sizes)[:, 0].to(label_dtype(network.info))}

    def predictions(
        self,
        info: ModelInfo,
        outputs: Arrays,
        sizes: Sequence[tuple[int, int]],
        originals: Sequence[tuple[int, int]],
        selection: SelectionConfig,
    ) -> list[Prediction]:
        """Return each image's label map at its original size; see `TaskExport.predictions`.

        A label map is resized by nearest neighbours. Logits are decoded as those of the network.
        """
        if "logits" in outputs:
            pixels = torch.tensor(sizes)
            map_sizes = reduce_sizes(pixels, STRIDES[0], check_padding(info.padding))
            return decode_logits(info, torch.from_numpy(outputs["logits"]), map_sizes, pixels, originals)
        return [
            to_prediction(info, torch.from_numpy(_resize_nearest(label_map[:height, :width], original)), original)
            for label_map, (height, width), original in zip(outputs["label_map"], sizes, originals, strict=True)
        ]


def _resize_nearest(label_map: NDArray[np.integer], shape: tuple[int, int]) -> NDArray[np.integer]:
    """Resize a label map `(H, W)`: each pixel gets the class at its centre."""
    rows, columns = (
        (2 * np.arange(side) + 1) * true // (2 * side) for side, true in zip(shape, label_map.shape, strict=True)
    )
    return label_map[rows[:, None], columns]


EXPORT: TaskExport = SemanticExport()
