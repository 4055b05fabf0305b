"""The activation between the two linear layers of a block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """Exact GELU of a tensor that the caller gives up: in place where no gradient is recorded.

    The hidden map is a network's largest tensor; a second one of its size costs more in page faults than in
    arithmetic on a CPU.
    """
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)
