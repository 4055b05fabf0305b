"""What every test may use: sample data where it is present, the golden numbers, and their formula."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
SAMPLE_DATA = HERE.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of small real data sets, or a skip that says where it was looked for."""
    if not SAMPLE_DATA.is_dir():
        pytest.skip("the sample image data is not at ../shared/data beside the project")
    return SAMPLE_DATA


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Read a golden file by its name without the ending."""
    return lambda name: json.loads((HERE / "golden" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def formula_weights() -> Callable[[dict[str, list[int]]], dict[str, torch.Tensor]]:
    """Fill a state dict, given as key to shape, by the golden files' formula, in float64."""
    return lambda shapes: {key: torch.from_numpy(np.asarray(_fill(key, shape))) for key, shape in shapes.items()}


@pytest.fixture(scope="session")
def formula_input() -> Callable[[int, int], torch.Tensor]:
    """Return the golden files' input `(2, 3, H, W)` in float64."""
    return lambda height, width: torch.from_numpy(
        np.random.default_rng(height * 10000 + width).standard_normal((2, 3, height, width))
    )


@pytest.fixture(scope="session")
def deviation() -> Callable[[torch.Tensor, dict[str, Any]], float]:
    """Return the largest difference of a tensor from a golden summary, in units of its standard deviation."""
    return _deviation


def _fill(key: str, shape: list[int]) -> Any:
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) >= 2:
        return n / math.sqrt(math.prod(shape[1:]))
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(n)
    return 1 + 0.1 * n if key.endswith(".weight") else 0.1 * n


def _deviation(tensor: torch.Tensor, summary: dict[str, Any]) -> float:
    assert list(tensor.shape) == summary["shape"]
    flat = tensor.detach().double().contiguous().flatten().numpy()
    samples = flat[np.linspace(0, flat.size - 1, 64).astype(int)]
    differences = [
        np.abs(samples - np.array(summary["samples"])).max(),
        abs(flat.mean() - summary["mean"]),
        abs(flat.std() - summary["std"]),
    ]
    return float(max(differences) / summary["std"])
