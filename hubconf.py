"""Entry points of `torch.hub`: Twins networks from a checkout of this repository, without installing the package.

For example `torch.hub.load("OWNER/REPOSITORY", "twins_svt_small", pretrained=True)`. An installed `twins` is used where
there is one, otherwise the checkout's own `src`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from twins.backbone.network import Twins
    from twins.tasks.network import TaskNetwork

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors", "huggingface_hub", "timm"]

if importlib.util.find_spec("twins") is None:
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "src"))


def twins_pcpvt_small(pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """Twins-PCPVT-S: 24.1 million parameters, 81.2 % top-1 on ImageNet-1k as the paper reports it.

    Args:
        pretrained: load the published weights; the first use downloads them.
        settings: anything that `twins.create_model` takes, for example `num_classes=10`; published weights for another
            number of classes or another task also need `resize_head=True`, which makes a fresh head.
    """
    return _create("twins_pcpvt_small", pretrained, settings)


def twins_pcpvt_base(pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """Twins-PCPVT-B: 43.8 million parameters, 82.7 % top-1; arguments as in `twins_pcpvt_small`."""
    return _create("twins_pcpvt_base", pretrained, settings)


def twins_pcpvt_large(pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """Twins-PCPVT-L: 61.0 million parameters, 83.1 % top-1; arguments as in `twins_pcpvt_small`."""
    return _create("twins_pcpvt_large", pretrained, settings)


def twins_svt_small(pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """Twins-SVT-S: 24.1 million parameters, 81.7 % top-1; arguments as in `twins_pcpvt_small`."""
    return _create("twins_svt_small", pretrained, settings)


def twins_svt_base(pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """Twins-SVT-B: 56.1 million parameters, 83.2 % top-1; arguments as in `twins_pcpvt_small`."""
    return _create("twins_svt_base", pretrained, settings)


def twins_svt_large(pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """Twins-SVT-L: 99.3 million parameters, 83.7 % top-1; arguments as in `twins_pcpvt_small`."""
    return _create("twins_svt_large", pretrained, settings)


def twins_backbone(name: str = "twins_svt_small", pretrained: bool = False, **settings: Any) -> Twins:
    """A backbone: images `(B, 3, H, W)` to four maps at strides 4, 8, 16 and 32.

    Args:
        name: any name of a model, such as `twins_svt_small` or `Twins-SVT-S`.
        pretrained: load the published weights; the first use downloads them.
        settings: anything that `twins.create_backbone` takes, for example `out_indices=(1, 2, 3)`.
    """
    import twins

    return twins.create_backbone(name, **_weights(pretrained, settings))


def twins_semantic(name: str = "twins_svt_small", pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """A semantic segmentation network with Semantic FPN, or `head="upernet"`.

    Args:
        name: any name of a model.
        pretrained: load the published ImageNet weights into the backbone; the head still needs training.
        settings: anything that `twins.create_model` takes.
    """
    return _create(name, pretrained, {"task": "semantic", "resize_head": pretrained, **settings})


def twins_detection(name: str = "twins_svt_small", pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """RetinaNet, or with `head="faster_rcnn"` Faster R-CNN; arguments as in `twins_semantic`."""
    return _create(name, pretrained, {"task": "detection", "resize_head": pretrained, **settings})


def twins_instance(name: str = "twins_svt_small", pretrained: bool = False, **settings: Any) -> TaskNetwork:
    """Mask R-CNN; arguments as in `twins_semantic`."""
    return _create(name, pretrained, {"task": "instance", "resize_head": pretrained, **settings})


def _create(name: str, pretrained: bool, settings: dict[str, Any]) -> TaskNetwork:
    import twins

    return twins.create_model(name, **_weights(pretrained, settings))


def _weights(pretrained: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the published weights if `pretrained`; raises ConfigError for other weights too."""
    from twins.errors import ConfigError

    if not isinstance(pretrained, bool):
        raise ConfigError(f"`pretrained` must be True or False, found {pretrained!r}; give files as `weights=PATH`")
    if pretrained and settings.get("weights") is not None:
        raise ConfigError(f"`pretrained` and `weights={settings['weights']}` both choose weights; leave one out")
    return {**settings, "weights": "published"} if pretrained else settings
