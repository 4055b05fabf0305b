"""Post-training quantisation to 8-bit integers, by NNCF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from twins.errors import ConfigError
from twins.exporting.extra import require

if TYPE_CHECKING:
    import openvino


def quantize(
    model: openvino.Model,
    images: Iterable[Tensor],
    *,
    preset: Literal["mixed", "performance"] = "performance",
    keep: Sequence[str] = (),
) -> openvino.Model:
    """Return a model with matrix products and convolutions in int8, their ranges measured on calibration images.

    Args:
        model: a float32 model of `convert_openvino`; it is not changed.
        images: calibration batches `(B, C, H, W)`, normalised, similar to those of later use; some hundred images are
            enough.
        preset: `performance` quantises everything in ranges symmetric about 0; `mixed` allows asymmetric ranges for
            activations.
        keep: regular expressions for the names of operations that stay in float32.

    Raises:
        ConfigError: no images.
        MissingExtraError: NNCF is not installed.
    """
    nncf = require("nncf")
    batches = [batch.numpy() for batch in images]
    if not batches:
        raise ConfigError("int8 needs calibration images, found none; give a few batches like those it will see")
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset(preset),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(patterns=list(keep), validate=False) if keep else None,
    )
