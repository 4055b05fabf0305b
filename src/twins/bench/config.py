"""Settings of a benchmark. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from twins.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure speed and memory on this machine; against timm both sides run interleaved, with the same weights."""

    models: Positional[tuple[str, ...]] = ()
    """Networks; none named are twins_svt_small and twins_pcpvt_small."""
    against: Literal["none", "timm"] = "none"
    """Peer to compare with, of the same name."""
    modes: tuple[Literal["inference", "training"], ...] = ("inference", "training")
    """Forward pass alone, and a training step: forward, loss, backward, AdamW."""
    precision: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
    """Number formats: weights and images alike."""
    batch: tuple[int, ...] = (8,)
    """Images in a batch."""
    size: tuple[int, ...] = (224,)
    """Sides of the input in pixels."""
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

    def __post_init__(self) -> None:
        for name in ("batch", "size", "modes", "precision"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} needs at least one value")
        if min(self.batch) < 1 or min(self.size) < 32:
            raise ConfigError(f"--batch must be at least 1 and --size at least 32, found {self.batch} and {self.size}")
        if self.rounds < 3 or self.warmup < 1 or (self.threads is not None and self.threads < 1):
            raise ConfigError(f"--rounds must be at least 3, --warmup and --threads at least 1, found {self.rounds}")
