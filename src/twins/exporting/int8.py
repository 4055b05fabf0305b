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
    """Return a model whose products and convolutions compute in int8, with scales read off calibration images.

    Args:
        model: of `convert_openvino`, in float32; it is not changed.
        images: batches `(B, C, H, W)` as the model takes them, like those it will see; some hundred images are enough.
        preset: `performance` has ranges symmetric about 0 everywhere, `mixed` lets those of activations lie askew.
        keep: regular expressions of the names of operations that stay in float32.

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
