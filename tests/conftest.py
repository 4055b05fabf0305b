"""What every test may use: sample data where it is present, the golden numbers, and their formula."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import http.server
import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# tests run in several processes, and on images this small a second thread only waits for the other processes
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

# graphs of compiled and exported networks are millions of objects, which Python's collector looks through very often
gc.set_threshold(10_000, 10, 10)

HERE = Path(__file__).parent
SAMPLE_DATA = HERE.parent.parent / "shared" / "data"
HUB_REPO = "timm/twins_svt_small.in1k"
HUB_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Take a process per core, and one more where slow tests run: some of them wait for processes that they start."""
    return (os.cpu_count() or 1) + (config.option.markexpr != "not slow")


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of small real data sets, or a skip that says where it was looked for."""
    if not SAMPLE_DATA.is_dir():
        pytest.skip("the sample image data is not at ../shared/data beside the project")
    return SAMPLE_DATA


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the smallest networks few blocks, with both attentions: the time to trace one grows with its blocks."""
    from twins.backbone.config import VARIANTS

    for name, depths in (("twins_svt_nano", (1, 1, 1, 2)), ("twins_pcpvt_nano", (1, 1, 1, 1))):
        monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[name], depths=depths))


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


@pytest.fixture(scope="session")
def serve_hub() -> Callable[[bytes], contextlib.AbstractContextManager[_Hub]]:
    """Run a hub on this machine that has the bytes of one file of weights."""
    return _serve_hub


@pytest.fixture(scope="session")
def hub_environment() -> Callable[[str, Path], dict[str, str]]:
    """Return the environment of a process that knows this hub, with an empty cache, and no other."""
    return _hub_environment


class _Hub:
    """A hub's answers: what it promises of each file, and the bytes that it sends."""

    def __init__(self, weights: bytes) -> None:
        config = json.dumps({"pretrained_cfg": {"input_size": [3, 224, 224]}}).encode()
        self.bodies = {"model.safetensors": weights, "config.json": config}
        self.etags = {
            "model.safetensors": hashlib.sha256(weights).hexdigest(),
            "config.json": hashlib.sha1(config).hexdigest(),
        }
        self.sizes = {name: len(body) for name, body in self.bodies.items()}
        self.status = 200
        self.headers: dict[str, str] = {}
        self.breaks = 0
        """How many downloads of the weights break off half-way."""
        self.requests: list[tuple[str, str]] = []


class _Answers(http.server.BaseHTTPRequestHandler):
    """Speaks the part of the hub's protocol that a download uses."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub: _Hub = self.server.hub
        name = self.path.rpartition("/")[2]
        hub.requests.append((self.command, name))
        if hub.status != 200 or name not in hub.bodies or not self.path.startswith(f"/{HUB_REPO}/resolve/"):
            self.send_response(404 if hub.status == 200 else hub.status)
            for key, value in hub.headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = hub.bodies[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", HUB_COMMIT)
        self.send_header("ETag", f'"{hub.etags[name]}"')
        self.send_header("Content-Length", str(len(content) if body else hub.sizes[name]))
        self.end_headers()
        if body and name == "model.safetensors" and hub.breaks:
            hub.breaks -= 1
            content = content[: len(content) // 2]
        if body:
            self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def _serve_hub(weights: bytes) -> Iterator[_Hub]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.hub = _Hub(weights)
        server.hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()


def _hub_environment(url: str, home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return {key: value for key, value in kept.items() if not key.startswith(("HF_", "TWINS_"))} | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        "NO_PROXY": "*",
    }


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
