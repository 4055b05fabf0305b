"""The GELU of half precision as arithmetic, for a compiler to put in one kernel with the operators around it."""

from __future__ import annotations

import torch
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """Return the exact GELU to 1e-6 as `max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2`.

    PyTorch's error function takes a GPU longer than moving the map; this one, Abramowitz and Stegun's 7.1.28, does not.
    """
    wide = x.float()
    size = wide.abs().clamp(max=16.0)  # from there on nothing is left of it
    p = 5.38297490493278e-06 * size + 4.889063711743802e-05
    for factor in (3.8003574445610866e-05, 0.0032776263542473316, 0.02114100567996502, 0.04986734688282013, 1.0):
        p = p * size + factor
    rest = torch.rsqrt(p)
    for _ in range(5):
        rest = rest * rest
    return (wide.relu() - 0.5 * size * rest).to(x.dtype)
