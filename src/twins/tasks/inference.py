"""Inference settings: scales, flip, sliding window and tiles; score and NMS thresholds. Nothing imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from twins.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How a semantic network looks at an image; by default once, whole, at the size that it was trained for."""

    scales: tuple[float, ...] = (1.0,)
    """Sizes to look at, in multiples of the network's own; probabilities are averaged."""
    flip: bool = False
    """Whether to look at the mirror image too."""
    window: int | None = None
    """Side in pixels of a window that slides over the resized image; logits are averaged where it overlaps itself."""
    stride: int | None = None
    """Step of the sliding window in pixels; unset is two thirds of it."""
    tile: int | None = None
    """Side in pixels of tiles of the image as it is, not resized: memory is bounded by the tile, however large the
    image."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; each pixel is read off the tile that sees it furthest from its border.
    Unset is a quarter of the tile."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 100 for scale in self.scales):
            raise ConfigError(f"`scales` must list numbers above 0 and at most 100, found {self.scales}")
        for name in ("window", "tile"):
            value = getattr(self, name)
            if value is not None and value < 32:
                raise ConfigError(f"`{name}` must be at least 32 pixels, found {value}")
        for part, whole in (("stride", "window"), ("overlap", "tile")):
            if getattr(self, part) is not None and getattr(self, whole) is None:
                raise ConfigError(f"`{part}` belongs to `{whole}`, which is not set; set it or leave `{part}` out")
        if self.stride is not None and self.window and not 0 < self.stride <= self.window:
            raise ConfigError(f"`stride` must be above 0 and at most `window={self.window}`, found {self.stride}")
        if self.overlap is not None and self.tile and not 0 <= self.overlap < self.tile:
            raise ConfigError(f"`overlap` must be at least 0 and below `tile={self.tile}`, found {self.overlap}")
        if self.tile and (self.window or self.flip or self.scales != (1.0,)):
            raise ConfigError("`tile` reads the image as it is and goes with neither `scales`, `flip` nor `window`")

    @property
    def plain(self) -> bool:
        """Whether images are looked at once and whole, as batches can be."""
        return self == InferenceConfig()


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which of the objects that a detector finds are given; by default as published, for measuring."""

    score: float = 0.05
    """Probability that an object must exceed."""
    nms: float = 0.5
    """Intersection over union above which the less sure of two boxes of a class goes."""
    agnostic: bool = False
    """Whether the less sure of two such boxes goes whatever their classes: one object, one name."""
    most: int = 100
    """Objects of an image, the surest first."""

    def __post_init__(self) -> None:
        if not 0 <= self.score < 1:
            raise ConfigError(f"`score` must be at least 0 and below 1, found {self.score}")
        if not 0 < self.nms <= 1:
            raise ConfigError(f"`nms` must be above 0 and at most 1, found {self.nms}")
        if self.most < 1:
            raise ConfigError(f"`most` must be at least 1, found {self.most}")


SHOWN = SelectionConfig(score=0.3)
"""The objects that are shown to people, where they say nothing else."""
