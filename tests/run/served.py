"""`twins serve` as a process, and what tests give it: networks with random weights, and images."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from PIL import Image

import twins

NETWORKS = {
    "classification": {"num_classes": 5, "names": tuple("abcde")},
    "semantic": {"num_classes": 4},
    "detection": {"num_classes": 3},
    "instance": {"num_classes": 3},
}
SCORE = 0.1
IMAGE = {"content-type": "application/octet-stream"}


class Server:
    """`twins serve` on a free port, with its log in a file."""

    def __init__(self, folder: Path, *arguments: str, log: str = "serve.log", **environment: str) -> None:
        self.log = folder / log
        command = [sys.executable, "-m", "twins", "serve", *arguments, "--port", "0", "--threads", "1"]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                command, stderr=file, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
            )

    def __enter__(self) -> Server:
        match = self.wait_for(r"ready at (http://\S+)")
        self.address = match[1]
        self.client = httpx.Client(base_url=self.address, timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        end = time.monotonic() + 90
        while len(found := list(re.finditer(pattern, self.log.read_text()))) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return found[-1]

    def workers(self) -> list[int]:
        """Process ids of the workers that got ready, oldest first, as far as they live."""
        pids = [int(pid) for pid in re.findall(r'"pid": (\d+)', self.log.read_text())]
        return [pid for pid in pids if psutil.pid_exists(pid)]

    def metric(self, name: str, **labels: str) -> float:
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return float(re.search(rf"^{name}{{{text}}} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)[1])

    def connection(self) -> socket.socket:
        host, port = self.address.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=20)

    def predict(self, content: bytes, **fields: object) -> httpx.Response:
        return self.client.post("/v1/predict", content=content, params=fields, headers=IMAGE)


def picture(seed, width, height):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(buffer := io.BytesIO(), format="PNG")
    return buffer.getvalue()


PICTURES = [picture(seed, *size) for seed, size in enumerate([(90, 60), (60, 90), (64, 64), (120, 50), (91, 60)])]


def save_networks(folder: Path, spread: Mapping[str, float] | None = None) -> dict[str, Path]:
    """Write a file of random weights for each task, made for small images; return the files by task.

    `spread` has a factor of the last weights by task: with the default, the order of scores is certain.
    """
    for seed, (task, settings) in enumerate(NETWORKS.items()):
        torch.manual_seed(seed)
        model = twins.create_model("twins_svt_nano", task=task, **settings)
        for name, values in model.named_parameters():  # scores so far from each other that their order is certain
            if "cls" in name and name.endswith("weight"):
                values.data *= (spread or {}).get(task, 30)
        size = {"size": 64} | ({} if task == "classification" else {"fit": "keep", "longest": 128})
        model.info = replace(model.info, preprocess=replace(model.info.preprocess, **size))
        twins.save_weights(model, folder / f"{task}.safetensors")
    return {task: folder / f"{task}.safetensors" for task in NETWORKS}
