"""Settings of an export. This module imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import arg

from twins.errors import ConfigError, check_type
from twins.exporting.formats import Format
from twins.exporting.metadata import SMALLEST, Precision

Side = int | Literal["dynamic"]
"""A number, or `dynamic` if it is left open."""

OPSETS = range(20, 24)
"""ONNX opsets: 20 is the first with a GELU operator, 23 the first with an attention operator."""
PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "torch": ("fp32", "bf16"),
}
"""Number formats that each file format can hold."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained network as one file that carries its preprocessing, class names and decoding, and verify it."""

    format: Format = "onnx"
    """`onnx`, `openvino` (an `.xml` with its `.bin`), or `torch` (a `.pt2` of `torch.export`)."""
    precision: Precision = "fp32"
    """Number format of weights and arithmetic; `int8` needs `calibrate`."""
    calibrate: Annotated[str | None, arg(metavar="DATA")] = None
    """Data set whose training images measure the ranges of int8."""
    size: Annotated[tuple[Side, ...], arg(metavar="H W|dynamic")] = ()
    """Height and width of the input in pixels, each a number or `dynamic`; one word stands for both. Unset: a
    classifier's own size, `dynamic` for other networks."""
    batch: Annotated[Side, arg(metavar="N|dynamic")] = 1
    """Images per call, or `dynamic`."""
    padded: bool = False
    """Add a second input, `sizes`: images of different sizes in a batch, padded, each get what they get alone."""
    score: float | None = None
    """Score that an object must exceed; unset is 0.05, as published."""
    logits: bool = False
    """Return the logits of a classifier or semantic network instead of probabilities or a label map."""
    features: bool = False
    """Export the backbone alone: the maps of its four stages."""
    resize_in_graph: bool = False
    """Resize images in the graph, so that the file takes them at their own size; else the runtime resizes them."""
    verify: Annotated[tuple[str, ...], arg(metavar="IMAGE...")] = ()
    """Images to verify the file on; unset: images of the embedded sets."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Data set on whose held-out images the network and the file are both measured."""
    max_drop: float = 0.5
    """Largest loss of the task's metric, in points of per cent, that a file may have with `data`."""
    opset: int | None = None
    """Operator set of an ONNX file, from 20 to 23. Unset: 23, or 21 for Faster and Mask R-CNN."""

    def __post_init__(self) -> None:
        size: Any = self.size
        verify: Any = self.verify
        check_type(size, int | str | Sequence, "size", "a number, dynamic, or a pair of them")
        check_type(verify, str | Sequence, "verify", "paths of images")
        check_type(self.score, float | int | None, "score", "a number")
        object.__setattr__(self, "size", (size,) if isinstance(size, int | str) else tuple(size))
        object.__setattr__(self, "verify", (verify,) if isinstance(verify, str) else tuple(verify))
        self._check_shapes()
        self._check_resizing()
        self._check_format()
        check_type(self.max_drop, float | int, "max_drop", "a number of points")
        if not 0 <= self.max_drop < float("inf"):
            raise ConfigError(f"`max_drop` must be at least 0 points, found {self.max_drop}")
        if self.score is not None and not 0 <= self.score < 1:
            raise ConfigError(f"`score` must be at least 0 and below 1, found {self.score}")
        if self.features and (self.logits or self.score is not None or self.data or self.precision == "int8"):
            raise ConfigError(
                "`features` exports a backbone, which has no scores to measure; leave out `logits`, `score`, `data` "
                "and int8"
            )

    @property
    def sides(self) -> tuple[Side, Side] | None:
        """Height and width, or `None` if they are not set."""
        return (self.size[0], self.size[-1]) if self.size else None

    def _check_shapes(self) -> None:
        if len(self.size) > 2:
            raise ConfigError(f"`size` takes height and width, or one word for both, found {len(self.size)} words")
        for side in self.size:
            _check_side("size", side, SMALLEST, " pixels")
        _check_side("batch", self.batch, 1)

    def _check_resizing(self) -> None:
        if self.resize_in_graph and (self.padded or self.features or self.logits):
            raise ConfigError(
                "`resize_in_graph` gives results in an image's own pixels; leave out `padded`, `features` and `logits`"
            )
        if self.resize_in_graph and "dynamic" in self.size:
            raise ConfigError("`resize_in_graph` resizes to a fixed `size`, found dynamic; give height and width")

    def _check_format(self) -> None:
        if self.format not in PRECISIONS:
            raise ConfigError(f"`format` must be {', '.join(PRECISIONS)}, found {self.format!r}")
        supported = PRECISIONS[self.format]
        if self.precision not in supported:
            raise ConfigError(f"`precision` of {self.format} must be {', '.join(supported)}, found {self.precision!r}")
        if self.opset is not None and self.format != "onnx":
            raise ConfigError(f'`opset` is for ONNX files, found `format="{self.format}"`; leave it out')
        if self.opset is not None and self.opset not in OPSETS:
            raise ConfigError(f"`opset` must be from {OPSETS[0]} to {OPSETS[-1]}, found {self.opset}")
        for name in ("data", "calibrate"):
            if getattr(self, name) == "":
                raise ConfigError(f"`{name}` names no data set; give one, or leave it out")
        if (self.precision == "int8") != (self.calibrate is not None):
            raise ConfigError(
                "int8 measures its ranges on images like those of later use; give their data set as `calibrate`"
                if self.precision == "int8"
                else '`calibrate` belongs to int8; set `precision="int8"` or leave it out'
            )


def _check_side(name: str, value: Any, minimum: int, unit: str = "") -> None:
    if value != "dynamic" and (type(value) is not int or value < minimum):
        raise ConfigError(f"`{name}` must be a number of at least {minimum}{unit}, or dynamic, found {value!r}")
