"""A network, data and metric that are small and easy to follow: points on a plane, two classes, two linear layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from twins.data.loading.batch import Batch
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.engine.log import Log
from twins.engine.loop import training_loop
from twins.engine.processes import build_accelerator
from twins.predictions import Prediction
from twins.weights.info import ModelInfo


def run_processes(script: str, arguments: list[list[str]]) -> None:
    """Run a script in several processes at once, each with its own arguments; all must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    calls = [[sys.executable, "-c", script, *own_arguments] for own_arguments in arguments]
    started = [subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, text=True) for call in calls]
    try:
        for process in started:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()


class ToyTask(nn.Module):
    info = ModelInfo(task="toy", model="toy")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.last = nn.Linear(2, 8), nn.Dropout(0.1), nn.Linear(8, 2)

    def prepare(self, images: torch.Tensor, sizes: Any) -> Any:
        return images.to(self.first.weight.dtype), sizes

    def forward(self, images: torch.Tensor, sizes: Any = None) -> torch.Tensor:
        return self.last(self.drop(self.first(images).relu()))

    def losses(self, images: torch.Tensor, targets: Any, sizes: Any = None) -> dict[str, torch.Tensor]:
        return {"toy": nn.functional.cross_entropy(self(images), targets)}

    def forward_with_losses(self, images: torch.Tensor, targets: Any, sizes: Any = None) -> Any:
        outputs = self(images)
        return outputs, {"toy": nn.functional.cross_entropy(outputs, targets)}

    def decode(self, outputs: torch.Tensor, sizes: Any, originals: Any) -> list[Prediction]:
        return [Prediction(task="toy", size=(1, 1), labels=np.array([int(row.argmax())])) for row in outputs]

    def no_weight_decay(self) -> set[str]:
        return {"first.weight"}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        return {"stem": r"^first", "blocks": [(r"^last", (99999,))]}


class ToyMetric:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(2, dtype=torch.int64)

    def update(self, predictions: Any, targets: Any) -> None:
        hits = sum(int(p.labels[0]) == int(t) for p, t in zip(predictions, targets, strict=True))
        self.counts += torch.tensor([hits, len(predictions)])

    def state(self) -> dict[str, torch.Tensor]:
        return {"counts": self.counts.clone()}

    def merge(self, states: Any) -> None:
        for state in states:
            self.counts += state["counts"]

    def compute(self) -> dict[str, float]:
        return {"top1": self.counts[0].item() / max(self.counts[1].item(), 1)}


class ToySource:
    """Forty points in batches of four; `spoil` is called with (step, pass, batch) before each batch is yielded."""

    train_count, val_count, steps_per_epoch = 40, 12, 5

    def __init__(self, accumulate: int = 2, spoil: Any = None) -> None:
        self.accumulate, self.spoil = accumulate, spoil
        self.points = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))

    def batch(self, indices: list[int]) -> Batch:
        points = self.points[indices]
        return Batch(points.clone(), (points[:, 0] > 0).long(), indices, [(1, 1)] * len(indices))

    def train(self, step: int) -> Any:
        while True:
            for index in range(self.accumulate):
                first = (step * self.accumulate + index) * 4 % 40
                batch = self.batch(list(range(first, first + 4)))
                if self.spoil:
                    self.spoil(step, index, batch)
                yield batch
            step += 1

    def evaluation(self) -> Any:
        return [self.batch([0, 1, 2, 3, 4]), self.batch([5, 6, 7, 8, 9, 10, 11])]

    def prepare(self, batch: Batch, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        return batch.images, batch.targets

    def loss_targets(self, batch: Batch) -> torch.Tensor:
        return batch.targets

    def path(self, index: int) -> str:
        return f"point-{index}"


@pytest.fixture
def toy(tmp_path: Path) -> Any:
    """Train the toy network in `tmp_path`; returns the network and the outcome."""

    def run(spoil: Any = None, task: Any = None, folder: Path | None = None, **settings: Any) -> Any:
        folder = folder or tmp_path
        defaults: dict[str, Any] = {
            "epochs": 4,
            "batch_size": 8,
            "accumulate": 2,
            "device": "cpu",
            "log_every": 3,
            "optimizer": OptimizerConfig(lr=0.05, layer_decay=None),
            "schedule": ScheduleConfig(warmup_epochs=0.5, warmup_lr=1e-3, min_lr=1e-4),
        }
        config = TrainConfig(**(defaults | settings))
        task = task or ToyTask()
        source = ToySource(config.accumulate, spoil)
        log = Log(folder, console=Console(quiet=True))
        outcome = training_loop(task, source, ToyMetric(), config, build_accelerator(config), log, fingerprint="toy")
        return task, outcome

    return run
