"""What every task's network is, and all that its head may know of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

from torch import Tensor, nn

from twins.backbone.network import fuse_network, layer_groups
from twins.predictions import Prediction
from twins.tasks.inference import SelectionConfig
from twins.weights.info import ModelInfo
from twins.weights.loading import LoadReport


class Features(Protocol):
    """All that a head may know of a backbone."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, such as (64, 128, 256, 512)."""
        ...

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image for each position of a map: (4, 8, 16, 32)."""
        ...


class TaskNetwork(nn.Module):
    """A Twins backbone with a task's heads, its losses and its decoding; each task's network is one of these.

    Args:
        backbone: gives the maps.
        info: what the network is and how its images are prepared; saved with its weights.
    """

    task: str
    """Name of its task."""
    one_graph: bool = True
    """Whether network and losses compile as one graph; of others the backbone is compiled alone."""
    selection: SelectionConfig
    """Which of the objects found are given, where the task finds objects."""
    load_report: LoadReport | None = None
    """What loading its weights reported; `None` where it was only initialised."""

    def __init__(self, backbone: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.info = info
        self.backbone: Any = backbone

    @property
    def num_classes(self) -> int:
        """Classes of its last layer, background aside; 0 when it returns features."""
        return self.info.num_classes

    def losses(self, images: Tensor, targets: Any, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return named, weighted scalars; the engine sums them."""
        raise NotImplementedError

    def decode(self, outputs: Any, sizes: Tensor | None, originals: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Return each image's result in the user's own coordinates.

        Args:
            outputs: what `forward` returned.
            sizes: true sizes in pixels, int `(B, 2)`, as `forward` had them, or `None`.
            originals: height and width of each of the users' images in pixels.
        """
        raise NotImplementedError

    def fuse(self) -> Self:
        """Return a copy for inference, whose backbone is the same function by exact algebra; see `fuse_network`."""
        return fuse_network(self)

    def set_grad_checkpointing(self, enable: bool = True, *, selective: bool = False) -> None:
        """Recompute blocks in the backward pass, or, `selective`, hidden maps alone; results are the same."""
        self.backbone.set_grad_checkpointing(enable, selective=selective)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters, norms and biases aside, that are trained without weight decay: the PEG."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Return timm's description of layers for layer decay: by stage when `coarse`, else by block."""
        return layer_groups("backbone.", coarse)
