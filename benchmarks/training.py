"""Parts that benchmarks of training share: results of a training, a simple optimiser, and the machine's facts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from twins.bench.compare import processor
from twins.engine.config import OptimizerConfig
from twins.predictions import Prediction

Predict = Callable[[Image.Image], Prediction]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network and the size of its training."""

    name: str
    predict: Predict
    parameters: int
    steps: int
    batch: int
    minutes: float

    @property
    def counts(self) -> list[str]:
        """Cells of a table: parameters, batch, steps, images seen."""
        images = self.steps * self.batch
        return [f"{self.parameters / 1e6:.2f} M", str(self.batch), f"{self.steps:,}", f"{images:,}"]


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW without weight decay of norms and biases, as in the engine."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    not_decayed = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def steps_of(run: Path) -> int:
    """Return the number of optimiser steps of one of our runs."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max(row["step"] for row in rows if "step" in row)


def machine() -> str:
    """Return the processor, the number of threads and torch's version, for the line below a table."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
