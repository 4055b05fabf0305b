"""Number formats that a processor has no arithmetic for."""

from __future__ import annotations

import torch
from torch import Tensor

_IN_HARDWARE = {
    torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def emulated(x: Tensor) -> bool:
    """Whether `x` lies on a CPU that only emulates its half precision: float32 is then ten times as fast, and nearer.

    Exported programs keep the standard operators, since they run elsewhere.
    """
    return x.device.type == "cpu" and not _IN_HARDWARE.get(x.dtype, True) and not torch.compiler.is_exporting()
