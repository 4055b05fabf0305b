"""Load and faults of `twins serve`: throughput, latency, memory, hostile clients, killed workers, reloads, LitServe.

Commands: python benchmarks/serving.py throughput --model svt_nano --batch 8
          python benchmarks/serving.py latency --model svt_nano --rate 50
          python benchmarks/serving.py soak --requests 20000
          python benchmarks/serving.py hostile --requests 10000 --model mask_rcnn_nano
          python benchmarks/serving.py kill --times 20
          python benchmarks/serving.py reload --times 20
          python benchmarks/serving.py litserve --model retinanet_nano
The load comes from locust in a process of its own (`pip install locust`), `litserve` needs `pip install litserve`. The
networks have random weights; images are crops of scikit-learn's two photographs as JPEG. Each command prints its result
as JSON, with the share of a core that the clients took.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from PIL import Image
from serving_hostile import attack
from sklearn.datasets import load_sample_images

import twins
from twins.machine import processor

MODELS: dict[str, dict[str, Any]] = {
    "svt_nano": {"name": "twins_svt_nano"},
    "svt_small": {"name": "twins_svt_small"},
    "retinanet_nano": {"name": "twins_svt_nano", "task": "detection", "num_classes": 3, "size": 256, "longest": 512},
    "mask_rcnn_nano": {"name": "twins_svt_nano", "task": "instance", "num_classes": 3, "size": 64, "longest": 128},
    "tiny": {"name": "twins_svt_nano", "num_classes": 10, "size": 32},
}
"""Networks by name: arguments of `create_model`, and of its preprocessing."""
HEADERS = {"content-type": "image/jpeg"}
LOCUST = """
import random
from pathlib import Path
import gevent
from locust import FastHttpUser, constant, task
START = b'--b\\r\\nContent-Disposition: form-data; name="image"; filename="i.jpg"\\r\\n'
START += b"Content-Type: image/jpeg\\r\\n\\r\\n"
IMAGES = [START + path.read_bytes() + b"\\r\\n--b--\\r\\n" for path in sorted(Path({folder!r}).glob("*.jpg"))]
HEADERS = {{"content-type": "multipart/form-data; boundary=b"}}
class Client(FastHttpUser):
    wait_time = {wait}
    def on_start(self):
        gevent.sleep(random.uniform(0, {spread}))
    @task
    def predict(self):
        with self.client.post({path!r}, data=random.choice(IMAGES), headers=HEADERS, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(str(answer.status_code))
"""
LITSERVE = """
import sys
import litserve
import torch
import twins
from PIL import Image
model, port, batch, threads, workers = sys.argv[1], *map(int, sys.argv[2:])
class Api(litserve.LitAPI):
    def setup(self, device):
        torch.set_num_threads(threads)
        self.predictor = twins.load(model)
    def decode_request(self, request):
        return Image.open(request["image"].file).convert("RGB")
    def batch(self, images):
        return images
    def predict(self, images):
        return self.predictor.predict(images, batch_size=batch)
    def unbatch(self, predictions):
        return predictions
    def encode_response(self, prediction):
        return prediction.to_dict()
if __name__ == "__main__":
    api = Api(max_batch_size=batch, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
"""
"""The same predictor under LitServe, with its own batches."""


class Server:
    """`twins serve` on a free port."""

    def __init__(self, *arguments: str) -> None:
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        command = [sys.executable, "-m", "twins", "serve", *arguments, "--port", "0"]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, stderr=file)

    def __enter__(self) -> Server:
        self.address = self.wait_for(r"ready at (http://\S+)")[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.unlink()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Return the `count`-th place of a pattern in the log, once it is there."""
        end = time.monotonic() + 120
        while len(found := list(re.finditer(pattern, self.log.read_text()))) < count:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(self.log.read_text()[-3000:])
            time.sleep(0.005)
        return found[count - 1]

    def workers(self) -> list[int]:
        """Process ids of the workers that got ready and live, oldest first."""
        pids = [int(pid) for pid in re.findall(r'"pid": (\d+)', self.log.read_text())]
        return [pid for pid in pids if psutil.pid_exists(pid)]

    def resident(self) -> float:
        """Resident memory of the server and its workers in MiB."""
        processes = [psutil.Process(pid) for pid in (self.process.pid, *self.workers())]
        return sum(process.memory_info().rss for process in processes) / 2**20

    def metric(self, name: str) -> float:
        """Return the sum of a number of `/metrics` over its labels."""
        text = httpx.get(f"{self.address}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def save_model(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a network with random weights, and return its file."""
    arguments = dict(MODELS[name])
    sizes = {key: arguments.pop(key) for key in ("size", "longest") if key in arguments}
    torch.manual_seed(seed)
    model = twins.create_model(arguments.pop("name"), **arguments)
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, **sizes))
    path = folder / f"{name}-{seed}.safetensors"
    twins.save_weights(model, path)
    return path


def save_images(folder: Path, *, unequal: bool, count: int = 32) -> Path:
    """Write crops of the two photographs: of one size, or of many."""
    folder.mkdir()
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = random.Random(0)
    for index in range(count):
        width, height = (rng.randint(240, 640), rng.randint(240, 427)) if unequal else (600, 400)
        image = photographs[index % 2]
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        image.crop((left, top, left + width, top + height)).save(folder / f"{index:02d}.jpg", quality=90)
    return folder


def load(
    address: str, path: str, images: Path, users: int, seconds: float, rate: float | None = None
) -> dict[str, float]:
    """Send images with locust; return images per second, latencies in milliseconds, and the cores of the clients."""
    wait = "constant(0)" if rate is None else f"lambda _: random.expovariate({rate / users})"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = LOCUST.format(folder=str(images), wait=wait, path=path, spread=0 if rate is None else users / rate)
        (folder / "locustfile.py").write_text(text)
        command = [sys.executable, "-m", "locust", "-f", str(folder / "locustfile.py"), "--headless", "--only-summary"]
        command += [
            "-H",
            address,
            "-u",
            str(users),
            "-r",
            str(users),
            "-t",
            f"{round(seconds)}s",
            "--csv",
            str(folder / "out"),
        ]
        command += ["--exit-code-on-error", "0", "--loglevel", "ERROR"]
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        used = 0.0
        while process.poll() is None:
            try:
                used = sum(process.cpu_times()[:2])
            except psutil.Error:
                break
            time.sleep(0.1)
        process.wait()
        row = list(csv.DictReader((folder / "out_stats.csv").open()))[-1]
    result = {
        name: float(row[key].replace("N/A", "nan")) for name, key in (("p50", "50%"), ("p95", "95%"), ("p99", "99%"))
    }
    result |= {"per_second": float(row["Requests/s"]), "requests": float(row["Request Count"])}
    return result | {"failures": float(row["Failure Count"]), "client_cores": round(used / seconds, 3)}


def bench(model: Path, images: Path, batch: int, threads: int) -> float:
    """Return the images per second of `twins bench --modes end-to-end`: one process from files to predictions."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [sys.executable, "-m", "twins", "bench", str(model), "--modes", "end-to-end", "--batch", str(batch)]
        command += [
            "--threads",
            str(threads),
            "--rounds",
            "15",
            "--images",
            str(images),
            "--no-memory",
            "--json",
            str(file),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows = json.loads(file.read_text())["rows"]
    return max(value for row in rows for key, value in row.items() if key.endswith("images_per_s"))


def throughput(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure saturated throughput beside the bench's, in turns."""
    model, images = save_model(args.model or "svt_nano", folder), save_images(folder / "images", unequal=args.unequal)
    settings = [
        "--max-batch",
        str(args.batch),
        "--workers",
        str(args.workers),
        "--threads",
        str(args.threads),
    ]
    settings += ["--max-padding", str(args.padding)]
    rows = []
    for _ in range(args.rounds):
        alone = bench(model, images, args.batch, args.bench_threads)
        with Server(str(model), *settings) as server:
            load(server.address, "/v1/predict", images, 2 * args.batch, 5)
            served = load(server.address, "/v1/predict", images, 4 * args.batch, args.seconds)
            mean = server.metric("twins_batch_images_sum") / server.metric("twins_batch_images_count")
        rows.append({"bench": alone, "batch": round(mean, 2), **served})
    ratio = statistics.median(row["per_second"] / row["bench"] for row in rows)
    return {"ratio": round(ratio, 3), "rows": rows}


def latency(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure latencies of requests that arrive at random at a rate, and the time of batches then and at saturation."""
    model, images = save_model(args.model or "svt_nano", folder), save_images(folder / "images", unequal=args.unequal)
    settings = ["--max-batch", str(args.batch), "--workers", str(args.workers), "--threads", str(args.threads)]
    with Server(str(model), *settings) as server:
        load(server.address, "/v1/predict", images, 4 * args.batch, 5)
        full = _batches(server)
        load(server.address, "/v1/predict", images, 4 * args.batch, 8)
        saturated = [after - before for before, after in zip(full, _batches(server), strict=True)]
        start = _batches(server)
        found = load(server.address, "/v1/predict", images, 64, args.seconds, args.rate)
        half = [after - before for before, after in zip(start, _batches(server), strict=True)]
    for name, (count, images_in, seconds) in (("saturated", saturated), ("at_rate", half)):
        found |= {f"batch_milliseconds_{name}": 1000 * seconds / count, f"batch_images_{name}": images_in / count}
    return found


def _batches(server: Server) -> list[float]:
    """Return the number of batches so far, of their images, and their seconds."""
    names = ("twins_batch_images_count", "twins_batch_images_sum", "twins_batch_seconds_sum")
    return [server.metric(name) for name in names]


def soak(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Send many requests and follow the resident memory."""
    model, images = save_model(args.model or "tiny", folder), save_images(folder / "images", unequal=True)
    contents = [path.read_bytes() for path in sorted(images.glob("*.jpg"))]
    memory, counts = [], Counter[int]()
    with Server(str(model), "--workers", "1", "--threads", "1") as server, ThreadPoolExecutor(8) as pool:
        client = httpx.Client(base_url=server.address, timeout=60)
        for start in range(0, args.requests, 1000):
            ids = range(start, min(start + 1000, args.requests))
            counts.update(pool.map(lambda i: post(client, contents[i % len(contents)]), ids))
            memory.append(round(server.resident(), 2))
    slope = float(np.polyfit(np.arange(len(memory) - 4), memory[4:], 1)[0])
    return {"statuses": counts, "mib_per_1000_after_4000": round(slope, 3), "mib": memory}


def post(client: httpx.Client, content: bytes) -> int:
    """Return the status of a prediction."""
    return client.post("/v1/predict", content=content, headers=HEADERS).status_code


def hostile(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Send what no client should, with good requests beside it."""
    model, images = save_model(args.model or "tiny", folder), save_images(folder / "images", unequal=True)
    good = next(iter(sorted(images.glob("*.jpg")))).read_bytes()
    settings = ["--receive-seconds", "1", "--max-connections", "256", "--max-megapixels", "4", "--max-megabytes", "2"]
    with Server(str(model), "--workers", "1", "--threads", "1", *settings) as server:
        before = server.workers()
        done, statuses = threading.Event(), Counter[int]()

        def send_good() -> None:
            with httpx.Client(base_url=server.address, timeout=60) as client:
                while not done.is_set():
                    statuses[post(client, good)] += 1
                    time.sleep(0.02)

        with ThreadPoolExecutor(2) as pool:
            goods = [pool.submit(send_good) for _ in range(2)]
            answers = asyncio.run(attack(server.address, good, args.requests, args.seed, model.stem))
            done.set()
            for one in goods:
                one.result()
        same_workers = server.workers() == before
        memory = server.resident()
    return {"answers": answers, "good": statuses, "same_workers": same_workers, "mib": round(memory)}


def kill(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill workers under load."""
    model, images = save_model(args.model or "tiny", folder), save_images(folder / "images", unequal=True)
    contents = [path.read_bytes() for path in sorted(images.glob("*.jpg"))]
    recoveries = []
    settings = ["--workers", str(args.workers), "--threads", "1"]
    with Server(str(model), *settings) as server, _Load(server, contents) as running:
        for number in range(args.times):
            time.sleep(0.5)
            started = time.monotonic()
            os.kill(server.workers()[0], signal.SIGKILL)
            server.wait_for("is ready", args.workers + number + 1)
            recoveries.append(time.monotonic() - started)
    return {
        "statuses": running.statuses,
        "slowest_answer_seconds": round(running.slowest, 2),
        "recovery_seconds_median": round(statistics.median(recoveries), 2),
        "recovery_seconds_longest": round(max(recoveries), 2),
    }


class _Load:
    """Four clients that post images one after another; keeps the statuses and the answers."""

    def __init__(self, server: Server, contents: list[bytes]) -> None:
        self.server, self.contents = server, contents
        self.statuses, self.slowest = Counter[str](), 0.0
        self.answers: list[tuple[int, list[float]]] = []
        self._done, self._pool = threading.Event(), ThreadPoolExecutor(4)

    def __enter__(self) -> _Load:
        self._clients = [self._pool.submit(self._run, start) for start in range(4)]
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for client in self._clients:
            client.result(90)

    def _run(self, start: int) -> None:
        index = start
        with httpx.Client(base_url=self.server.address, timeout=90) as client:
            while not self._done.is_set():
                index = (index + 1) % len(self.contents)
                started = time.monotonic()
                try:
                    answer = client.post("/v1/predict", content=self.contents[index], headers=HEADERS)
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.slowest = max(self.slowest, time.monotonic() - started)
                self.statuses[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    self.answers.append((index, answer.json()["predictions"][0]["scores"]))


def reload(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Exchange the model under load; each answer must be that of one of the two models."""
    files = [save_model(args.model or "tiny", folder, seed) for seed in (0, 1)]
    images = save_images(folder / "images", unequal=True)
    paths = sorted(images.glob("*.jpg"))
    expected = [[p.scores for p in twins.load(file).predict(paths)] for file in files]
    served = folder / "served.safetensors"
    served.write_bytes(files[0].read_bytes())
    settings, contents = ["--workers", "2", "--threads", "1", "--reload-seconds", "0"], [p.read_bytes() for p in paths]
    with Server(f"m={served}", *settings) as server, _Load(server, contents) as running:
        for number in range(args.times):
            time.sleep(0.3)
            replacement = folder / "new"
            replacement.write_bytes(files[(number + 1) % 2].read_bytes())
            replacement.replace(served)
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("switched m", number + 1)
    found = Counter[str]()
    for index, scores in running.answers:
        near = [np.allclose(scores, model[index], rtol=0, atol=1e-5) for model in expected]
        found["old" if near[0] else "new" if near[1] else "neither"] += 1
    return {"statuses": running.statuses, "answers": found, "slowest_answer_seconds": round(running.slowest, 2)}


def litserve(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the same model under LitServe and here, in turns, at several numbers of clients."""
    model, images = save_model(args.model or "svt_nano", folder), save_images(folder / "images", unequal=True)
    (folder / "lit.py").write_text(LITSERVE)
    options = {"max-batch": args.batch, "threads": args.threads, "workers": args.workers, "max-padding": args.padding}
    settings = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    rows = []
    for _, users in product(range(args.rounds), args.users):
        with Server(str(model), *settings) as server:
            load(server.address, "/v1/predict", images, users, 4)
            found = load(server.address, "/v1/predict", images, users, args.seconds)
            rows.append({"server": "twins", "users": users, **found})
        with _lit(folder / "lit.py", model, args.batch, args.threads, args.workers) as address:
            load(address, "/predict", images, users, 4)
            found = load(address, "/predict", images, users, args.seconds)
            rows.append({"server": "litserve", "users": users, **found})
    return {"rows": rows}


class _lit:
    """LitServe with the same predictor, on a free port."""

    def __init__(self, program: Path, model: Path, *settings: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, str(program), str(model), str(self.port), *map(str, settings)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def __enter__(self) -> str:
        address, end = f"http://127.0.0.1:{self.port}", time.monotonic() + 90
        while time.monotonic() < end:
            try:
                if httpx.get(f"{address}/health").status_code == 200:
                    return address
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise SystemExit("LitServe did not start")

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            while True:  # its workers may outlive it, and go on to compute what was queued
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.poll()
                time.sleep(0.1)


COMMANDS = {f.__name__: f for f in (throughput, latency, soak, hostile, kill, reload, litserve)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--model", choices=MODELS, help="unset: svt_nano; tiny for faults")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of each worker")
    parser.add_argument("--bench-threads", type=int, default=2)
    parser.add_argument("--padding", type=float, default=0.0)
    parser.add_argument("--unequal", action="store_true", help="images of many sizes")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = COMMANDS[args.command](args, Path(folder))
    settings = {name: value for name, value in vars(args).items() if name != "command"}
    print(json.dumps({args.command: result, "settings": settings, "processor": processor(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
