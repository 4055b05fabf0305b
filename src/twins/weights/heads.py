"""Which task's head a state dict of our layout holds, told by its tensors' names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from twins.data.classes import built_in, imagenet_names


@dataclass(frozen=True, kw_only=True)
class HeadLayout:
    """How one head is told."""

    task: str
    """Its task."""
    head: str | None
    """Its name, where the task names it."""
    last: str
    """The weight of the layer that tells the classes apart."""
    dims: int
    """Dimensions of that weight."""
    mark: str = ""
    """How a key begins that only this head has; empty where `last` says enough."""
    places: int = 1
    """Outputs of that layer for each class."""
    background: int = 0
    """Outputs of that layer for none of the classes."""
    wide: str = ""
    """A weight with as many outputs as the head has channels inside; empty where heads have one width."""
    width: int = 0
    """Those of the published head."""

    def classes(self, state: Mapping[str, Tensor]) -> int:
        """Return how many classes a state dict that holds the head tells apart."""
        return state[self.last].shape[0] // self.places - self.background

    def channels(self, state: Mapping[str, Tensor]) -> int | None:
        """Return the channels inside the head that a state dict holds, `None` where they are the published ones."""
        found = state[self.wide].shape[0] if self.wide in state else self.width
        return None if found == self.width else found

    def names(self, classes: int) -> tuple[str, ...]:
        """Return the class names of the published networks, told by their number; empty for another."""
        if self.task == "classification":
            return imagenet_names() if classes == 1000 else ()
        table = {("semantic", 150): "ade20k", ("detection", 80): "coco", ("instance", 80): "coco"}
        known = table.get((self.task, classes))
        return built_in(known).names if known else ()


_LATERAL, _SEGMENTER = "neck.lateral_convs.0.conv.weight", "decode_head.conv_seg.weight"
LAYOUTS = (
    HeadLayout(
        task="instance",
        head="mask_rcnn",
        last="roi_head.mask_head.conv_logits.weight",
        dims=4,
        wide=_LATERAL,
        width=256,
    ),
    HeadLayout(
        task="detection",
        head="faster_rcnn",
        last="roi_head.bbox_head.fc_cls.weight",
        dims=2,
        background=1,
        wide=_LATERAL,
        width=256,
    ),
    HeadLayout(
        task="detection",
        head="retinanet",
        last="bbox_head.retina_cls.weight",
        dims=4,
        places=9,
        wide=_LATERAL,
        width=256,
    ),
    HeadLayout(
        task="semantic",
        head="upernet",
        last=_SEGMENTER,
        dims=4,
        mark="decode_head.psp_modules.",
        wide="decode_head.bottleneck.conv.weight",
        width=512,
    ),
    HeadLayout(task="semantic", head="semantic_fpn", last=_SEGMENTER, dims=4, wide=_LATERAL, width=256),
    HeadLayout(task="classification", head=None, last="head.weight", dims=2),
)
"""The heads, those first whose files may hold what another is told by."""


def find_head(state: Mapping[str, Tensor]) -> HeadLayout | None:
    """Return the head that a state dict holds, or `None` where it holds a backbone alone."""
    for layout in LAYOUTS:
        marked = not layout.mark or any(key.startswith(layout.mark) for key in state)
        if layout.last in state and state[layout.last].ndim == layout.dims and marked:
            return layout
    return None
