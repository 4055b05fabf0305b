"""What benchmarks of training share: a trained network with what that took, and the plainest optimiser and facts."""

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
    """A network that was trained, and what that took."""

    name: str
    predict: Predict
    parameters: int
    steps: int
    batch: int
    minutes: float

    @property
    def counts(self) -> list[str]:
        """Cells of a table: parameters, batch, steps, images seen."""
        seen = self.steps * self.batch
        return [f"{self.parameters / 1e6:.2f} M", str(self.batch), f"{self.steps:,}", f"{seen:,}"]


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW as the engine makes it: no decay on norms and biases."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def steps_of(run: Path) -> int:
    """Return the optimiser steps of a run of ours."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max(row["step"] for row in rows if "step" in row)


def machine() -> str:
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
