"""The application for Ray Serve: two replicas on this machine, one of which is killed under load."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import twins

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; pip install 'twins-vision[scale]'"),
]
PROGRAM = """
import sys
from twins.serve.ray import app
import os
assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
import ray
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[3])
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
arguments = {"models": sys.argv[1], "min_replicas": 2, "max_replicas": 2, "threads": "1", "max_delay_ms": "5"}
serve.run(app(arguments))
print("ready", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""


@pytest.fixture
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    torch.manual_seed(0)
    twins.save_weights(twins.create_model("twins_svt_nano", num_classes=3), folder / "net.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Ray's own folder must have a short path, for its sockets
    short = Path("/tmp") / f"twins-ray-{port}"
    log = folder / "log"
    command = [sys.executable, "-c", PROGRAM, str(folder / "net.safetensors"), str(port), str(short)]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file)
    end = time.monotonic() + 120
    while "\nready" not in log.read_text() and not log.read_text().startswith("ready"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.communicate(timeout=60)
        subprocess.run(["rm", "-rf", str(short)], check=True)


def replicas() -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(p.info["cmdline"] or [])]


def test_two_replicas_answer_while_one_of_them_is_killed(address):
    Image.fromarray(np.full((50, 60, 3), 99, np.uint8)).save(buffer := io.BytesIO(), format="PNG")
    statuses, done = [], threading.Event()
    headers = {"content-type": "image/png"}
    (expected,) = httpx.post(f"{address}/v1/predict", content=buffer.getvalue(), headers=headers, timeout=60).json()[
        "predictions"
    ]

    def load() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while not done.is_set():
                answer = client.post("/v1/predict", content=buffer.getvalue(), headers=headers)
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    assert answer.json()["predictions"][0] == expected

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        time.sleep(1)
        before = replicas()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        end = time.monotonic() + 60
        while len(set(replicas()) - {before[0]}) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(1)
        done.set()
        for one in loads:
            one.result(60)
    assert statuses.count(200) > 20
    # what the dead replica had is lost in Ray's proxy, at most what the four clients had sent
    assert len(statuses) - statuses.count(200) <= 4, statuses
    assert httpx.get(f"{address}/v1/predict").status_code == 405
    assert httpx.get(f"{address}/health/ready").status_code == 200
