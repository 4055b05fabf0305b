"""Settings of a benchmark. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from twins.errors import ConfigError

SIZES = {
    "classification": ("224",),
    "semantic": ("512",),
    "detection": ("800x1333",),
    "instance": ("800x1333",),
}
"""The tasks that can be measured, and the sizes of the input where none are given, in pixels."""


def shape_of(size: int | str) -> tuple[int, int]:
    """Return the height and width that a size says: one side of a square, or both as in `800x1333`.

    Raises:
        ConfigError: it says neither, or a side below 32.
    """
    sides = str(size).lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        raise ConfigError(f"--size must be a side of at least 32, or two as in 800x1333, found {size!r}")
    return int(sides[0]), int(sides[-1])


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure speed and memory on this machine; against timm both sides run interleaved, with the same weights."""

    models: Positional[tuple[str, ...]] = ()
    """Networks; none named are twins_svt_small and twins_pcpvt_small."""
    task: str = "classification"
    """What the networks do: `classification`, `semantic`, `detection` or `instance`."""
    head: str | None = None
    """Head of a dense network, such as `upernet` or `faster_rcnn`; unset is the task's default."""
    against: Literal["none", "timm"] = "none"
    """Peer to compare with, of the same name; of a dense network its backbone, below the very same head."""
    modes: tuple[Literal["inference", "training"], ...] = ("inference", "training")
    """Forward pass alone, and a training step: forward, the task's loss, backward, AdamW."""
    precision: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32",)
    """Number formats: weights and images alike; `int8`, by post-training quantisation, with `--runtime openvino`."""
    batch: tuple[int, ...] = (8,)
    """Images in a batch."""
    size: tuple[str, ...] = ()
    """Sizes of the input in pixels, a square's side or height and width as in `800x1333`; none given are 224, for
    semantic 512, for detectors 800x1333."""
    runtime: Literal["torch", "onnxruntime", "openvino"] = "torch"
    """What runs both sides, the others on classifiers' exports: inference alone, on CPUs, without memory."""
    compile: bool = False
    """Compile both sides with torch.compile."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What computes."""
    threads: int | None = None
    """CPU threads; unset is torch's choice."""
    rounds: int = 20
    """Timed rounds, every subject once in each; medians are reported."""
    warmup: int = 3
    """Rounds before the timed ones."""
    memory: bool = True
    """Also measure peak memory, each subject in a process of its own."""
    json: str | None = None
    """File to write the result to."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """Sizes of the input in pixels, the task's own where none are given."""
        return self.size or SIZES[self.task]

    def __post_init__(self) -> None:
        if self.task not in SIZES:
            raise ConfigError(f"--task of twins bench must be {' or '.join(SIZES)}, found {self.task!r}")
        for name in ("batch", "modes", "precision"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} needs at least one value")
        self._check_runtime()
        if min(self.batch) < 1:
            raise ConfigError(f"--batch must be at least 1, found {self.batch}")
        least = min(side for size in self.sizes for side in shape_of(size))
        alone = self.task == "semantic" and "training" in self.modes and min(self.batch) == 1
        if alone and (self.head == "upernet" or least < 64):
            raise ConfigError(
                "a training step of upernet, or of a dense network at a size below 64, needs --batch 2 or more, found "
                "1: batch norm has no statistics of a single value"
            )
        for name, least in (("rounds", 3), ("warmup", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name} must be at least {least}, found {value}")

    def _check_runtime(self) -> None:
        known = {"torch": ("fp32", "bf16"), "onnxruntime": ("fp32",), "openvino": ("fp32", "bf16", "int8")}[
            self.runtime
        ]
        for precision in self.precision:
            if precision not in known:
                raise ConfigError(f"--precision of {self.runtime} must be {' or '.join(known)}, found {precision}")
        if self.runtime == "torch":
            return
        if self.task != "classification" or self.modes != ("inference",) or self.compile:
            raise ConfigError(
                f"--runtime {self.runtime} measures classifiers that were exported; say --modes inference, without "
                "--task or --compile"
            )
