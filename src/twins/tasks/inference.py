"""Inference settings: scales, flip, sliding window, tiles; score and NMS thresholds. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from twins.errors import ConfigError, check_type


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Scales, flip, sliding window and tiles; by default one pass at the training size.

    The facts of a task (`TaskFacts.inference`) say which of these settings apply to it.
    """

    scales: tuple[float, ...] = (1.0,)
    """All tasks: scales to predict at, in multiples of the network's input size; the results are merged."""
    flip: bool = False
    """All tasks: predict the mirrored image too and merge the results; not for classes that differ by left and right,
    such as digits."""
    window: int | None = None
    """Semantic: side in pixels of a window that slides over the resized image; logits are averaged where windows
    overlap."""
    stride: int | None = None
    """Semantic: step of the sliding window in pixels; unset is two thirds of its side."""
    tile: int | None = None
    """Semantic and detectors: side in pixels of tiles of the image at its own size, not resized, for large images; the
    network's memory does not grow with the image."""
    overlap: int | None = None
    """Semantic and detectors: pixels that neighbouring tiles share; unset is a quarter of the tile. For detectors it
    should be at least as large as most objects."""

    def __post_init__(self) -> None:
        check_type(self.scales, tuple | list, "scales", "several numbers, such as (0.5, 1.0)")
        object.__setattr__(self, "scales", tuple(self.scales))
        for scale in self.scales:
            check_type(scale, float | int, "scales", "several numbers, such as (0.5, 1.0)")
        check_type(self.flip, bool, "flip", "True or False")
        for name in ("window", "stride", "tile", "overlap"):
            check_type(getattr(self, name), int | None, name, "a whole number of pixels")
        if not self.scales or not all(0 < scale <= 10 for scale in self.scales):
            raise ConfigError(
                "`scales` must list numbers above 0 and at most 10, where 1 is the network's own size, found "
                f"{self.scales}"
            )
        for name in ("window", "tile"):
            value = getattr(self, name)
            if value is not None and value < 32:
                raise ConfigError(f"`{name}` must be at least 32 pixels, found {value}")
        for name, base in (("stride", "window"), ("overlap", "tile")):
            if getattr(self, name) is not None and getattr(self, base) is None:
                raise ConfigError(f"`{name}` belongs to `{base}`, which is not set; set it or leave `{name}` out")
        if self.stride is not None and self.window and not 0 < self.stride <= self.window:
            raise ConfigError(f"`stride` must be above 0 and at most `window={self.window}`, found {self.stride}")
        if self.overlap is not None and self.tile and not 0 <= self.overlap < self.tile:
            raise ConfigError(f"`overlap` must be at least 0 and below `tile={self.tile}`, found {self.overlap}")
        if self.tile and (self.window or self.flip or self.scales != (1.0,)):
            raise ConfigError("`tile` reads the image as it is and goes with neither `scales`, `flip` nor `window`")

    @property
    def shared_pixels(self) -> int:
        """Pixels that neighbouring tiles share: `overlap`, or a quarter of the tile."""
        return self.overlap if self.overlap is not None else (self.tile or 0) // 4

    @property
    def plain(self) -> bool:
        """Whether this is the default: one pass over whole images, which may be batched."""
        return self == InferenceConfig()


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which objects a detector returns; the defaults are the published ones, for evaluation."""

    score: float = 0.05
    """Score that an object must exceed, a probability."""
    nms: float = 0.5
    """IoU of two boxes of a class above which NMS removes the lower-scoring one."""
    agnostic: bool = False
    """Class-agnostic NMS: apply it across classes, so that an object has one class."""
    most: int = 100
    """Maximum number of objects per image; the highest scores are kept."""

    def __post_init__(self) -> None:
        for name, expected in (("score", "a number"), ("nms", "a number"), ("most", "a whole number")):
            check_type(getattr(self, name), int if name == "most" else float | int, name, expected)
        if not 0 <= self.score < 1:
            raise ConfigError(f"`score` must be at least 0 and below 1, found {self.score}")
        if not 0 < self.nms <= 1:
            raise ConfigError(f"`nms` must be above 0 and at most 1, found {self.nms}")
        if self.most < 1:
            raise ConfigError(f"`most` must be at least 1, found {self.most}")


SHOWN = SelectionConfig(score=0.3)
"""Default for predictions that people look at."""
