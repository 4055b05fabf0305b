"""Names of this machine's processor and accelerators, for results and bug reports."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def describe_machine(device: str) -> str:
    """Return the processor, its cores and the threads in use, after the name of a CUDA device if it is used."""
    import torch

    cores = f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} in use"
    return f"{torch.cuda.get_device_name(device)}; {cores}" if device.startswith("cuda") else cores
