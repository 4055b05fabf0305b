"""What runs a network's Python: nobody but the interpreter, a compiler, or an exporter."""

from __future__ import annotations

import torch


def exporting() -> bool:
    """Whether torch.export traces what runs; `torch.compiler.is_exporting`, which torch 2.11 compiles as true."""
    return torch.compiler._is_exporting_flag
