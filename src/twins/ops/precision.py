"""Number formats that a processor has no arithmetic for."""

from __future__ import annotations

import torch
from torch import Tensor

from twins.ops.tracing import exporting


def _in_hardware(kind: str) -> bool:
    """Whether oneDNN finds arithmetic for `bf16` or `fp16` in this processor; where PyTorch lacks oneDNN, yes."""
    if not torch._C._has_mkldnn:
        return True  # nothing is known to be slow, so the standard operators stay
    return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")())


_IN_HARDWARE = {torch.bfloat16: _in_hardware("bf16"), torch.float16: _in_hardware("fp16")}


def emulated(x: Tensor) -> bool:
    """Whether `x` lies on a CPU that only emulates its half precision: float32 is then ten times as fast, and nearer.

    Under autocast, which would undo it, and in exported programs, which run elsewhere, the standard operators stay.
    """
    return (
        x.device.type == "cpu"
        and not _IN_HARDWARE.get(x.dtype, True)
        and not torch.is_autocast_enabled("cpu")
        and not exporting()
    )
