"""ImageNet-1k's class names."""

from __future__ import annotations

from functools import cache


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return the 1,000 class names by class id, as timm ships them; the first of each synset's words."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index).split(",")[0].strip() for index in range(1000))
