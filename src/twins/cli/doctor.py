"""`twins doctor`: versions, devices, and which form of each operator runs on this machine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import twins
from twins.cli.parse import parse
from twins.files import json_text

PACKAGES = ("torch", "torchvision", "timm", "triton", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """Print versions, devices, and which form of each operator runs on this machine and why."""

    all: bool = False
    """Print everything: all versions, caches, and each operator in each situation with the reason for its form."""
    json: bool = False
    """Print JSON, which you can paste into a bug report."""


ARGS = DoctorArgs


def run(arguments: list[str]) -> int:
    """Print the facts about this machine, as text or JSON."""
    args = parse(DoctorArgs, "doctor", arguments)
    facts = examine()
    if args.json:
        print(json_text(facts, indent=1))
    else:
        _show(facts, everything=args.all)
    return 0


def examine() -> dict[str, Any]:
    """Return the facts about this machine that a bug report needs."""
    import torch

    from twins.ops.dispatch import objection_to_kernels
    from twins.ops.forms import chosen_forms
    from twins.ops.private_torch import has_onednn, inductor_cache, onednn_is_enabled

    return {
        "format": 1,
        "versions": {"python": platform.python_version(), "os": platform.platform(), **_versions()},
        "cpu": _cpu(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "triton": objection_to_kernels() or "serves",
        "onednn": has_onednn() and onednn_is_enabled(),
        "mkl": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
        "caches": {
            "inductor": os.environ.get("TORCHINDUCTOR_CACHE_DIR") or inductor_cache(),
            "triton": os.environ.get("TRITON_CACHE_DIR") or os.path.expanduser("~/.triton/cache"),
        },
        "serving": [row._asdict() for row in chosen_forms()],
    }


def _versions() -> dict[str, str | None]:
    """Return the packages' versions; `None` for a package that is not installed."""
    versions: dict[str, str | None] = {"twins-vision": twins.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _cpu() -> dict[str, Any]:
    import torch

    from twins.machine import processor
    from twins.ops.dispatch import IN_HARDWARE

    flags: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # new in PyTorch
    return {
        "name": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "avx2": bool(flags.get("avx2")),
        "avx512": bool(flags.get("avx512_f")),
        "amx": bool(flags.get("amx_tile")),
        "bfloat16": IN_HARDWARE[torch.bfloat16],
        "float16": IN_HARDWARE[torch.float16],
    }


def _gpu(index: int) -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_properties(index)
    capability = f"{device.major}.{device.minor}"
    return {"name": device.name, "memory_mib": device.total_memory >> 20, "compute_capability": capability}


def _show(facts: dict[str, Any], *, everything: bool) -> None:
    versions = facts["versions"]
    if everything:
        for name, version in versions.items():
            _line(name, version or "not installed")
    else:
        shown = ("twins-vision", "torch", "python", "os")
        _line("versions", ", ".join(f"{name} {versions[name]}" for name in shown))
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            _line("not installed", ", ".join(missing))
    cpu = dict(facts["cpu"])
    details = cpu if everything else {name: cpu[name] for name in ("cores", "threads", "capability", "bfloat16")}
    _line(
        "cpu",
        f"{cpu.pop('name')}: {', '.join(f'{key} {_text(value)}' for key, value in details.items() if key != 'name')}",
    )
    for gpu in facts["gpus"]:
        _line("gpu", f"{gpu['name']}, {gpu['memory_mib']} MiB, compute capability {gpu['compute_capability']}")
    if not facts["gpus"]:
        _line("gpu", "none")
    _line("triton kernels", _text(facts["triton"]))
    _line("onednn, mkl", f"{_text(facts['onednn'])}, {_text(facts['mkl'])}")
    if not everything:
        print("\ntwins doctor --all also prints caches and the kernels of each operator; --json is for a bug report")
        return
    for name, folder in facts["caches"].items():
        _line(f"{name} cache", folder)
    _show_forms(facts)


def _line(name: str, value: str) -> None:
    print(f"{name:<14} {value}")


def _show_forms(facts: dict[str, Any]) -> None:
    """Print which form of each operator runs, by situation."""
    situation = None
    for row in facts["serving"]:
        if row["situation"].startswith("CUDA") and not facts["gpus"]:
            continue
        if row["situation"] != situation:
            situation = row["situation"]
            print(f"\n{situation}")
        print(f"  {row['function']:<25} {row['form']:<31} {row['reason']}")


def _text(value: object) -> str:
    """Return a value as text, a bool as `yes` or `no`."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
