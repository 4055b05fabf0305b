"""Semantic inference by tiles: memory for large images, and how far tiles change what is said.

Command: python benchmarks/tiles.py [--model RUN]
Memory: an image file (scikit-learn's photographs, mirrored on) goes through `predict` with `--tile`, each case in a
process of its own, on the CPU; peaks are what is resident beyond the process before, which has looked at a small image.
The image and its map of classes take four bytes a pixel, Pillow pads its RGB with a fourth, the rest is the tile's.
Weights are random, which needs no less. Seams: a trained network looks at held-out images of its own data, mirrored on
to 1024 x 768, whole and by tiles; without --model it first learns scenes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIB = 2**20
CLASSES = (3, 150)
"""Of the networks whose memory is measured: a user's own, and ADE20K's."""
WIDTH, HEIGHT, OFFSET = 1024, 768, 50
"""Images whose seams are looked at, and where their originals begin in them: at no tile's edge."""
IMAGES = 4
TILES = ((128, 0), (128, 32), (256, 0), (256, 64), (384, 0), (384, 96), (512, 0), (512, 128))
"""Sides of tiles and what neighbours share: nothing, or a quarter as by default."""
BAND = 16
"""How near to a seam a pixel counts as beside it, in pixels."""


def write_photograph(path: Path, height: int, width: int) -> None:
    from sklearn.datasets import load_sample_images

    both = np.concatenate(load_sample_images().images)
    Image.fromarray(mirrored(both, height, width)).save(path, compress_level=1)


def measure(case: dict[str, Any]) -> None:
    """Print a case's peak memory in bytes, and its seconds; in a process of its own."""
    from twins.bench.memory import resident, start_peak

    act = _prediction(**case) if case["model"] else _decoding(case["file"])
    before = start_peak()
    start = time.perf_counter()
    act()
    seconds = time.perf_counter() - start
    print(resident("VmHWM") - before, f"{seconds:.1f}")


def _decoding(file: str) -> Any:
    def decode() -> None:
        with Image.open(file) as image:
            image.load()

    return decode


def _prediction(file: str, model: str, classes: int, tile: int) -> Any:
    import twins
    from twins.tasks.inference import InferenceConfig

    network = twins.create_model(model, task="semantic", num_classes=classes)
    predictor = twins.Predictor(network, device="cpu", inference=InferenceConfig(tile=tile))
    predictor.predict(np.zeros((32, 32, 3), dtype=np.uint8))  # libraries are loaded when they are first used
    return lambda: predictor.predict(file)


def _run(**case: Any) -> tuple[float, str]:
    """Return a case's peak in MiB, and its seconds."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True, check=True
    )
    peak, seconds = done.stdout.split()[-2:]
    return int(peak) / MIB, seconds


def print_memory(sizes: list[str], models: list[str], tile: int, folder: Path) -> None:
    print("MiB beyond the process before:\n")
    print("| image, H x W | network | classes | tile | decoding alone | peak | image + map | fourth byte | rest | s |")
    print("| --- " * 10 + "|")
    for size in sizes:
        height, width = map(int, size.split("x"))
        file = folder / f"{size}.png"
        write_photograph(file, height, width)
        decoding, _ = _run(file=str(file), model=None)
        needed, fourth = height * width * (3 + 1) / MIB, height * width / MIB
        for model, classes in product(models, CLASSES):
            peak, seconds = _run(file=str(file), model=model, classes=classes, tile=tile)
            parts = [decoding, peak, needed, fourth, peak - needed - fourth]
            numbers = " | ".join(f"{part:.0f}" for part in parts)
            print(f"| {height:,} x {width:,} | {model} | {classes} | {tile} | {numbers} | {seconds} |", flush=True)
        file.unlink()


def train_on_scenes(minutes: float, folder: Path) -> Path:
    import twins
    from twins.tasks.semantic.recipes import scenes

    return twins.train(replace(scenes(), minutes=minutes, out=str(folder / "run"))).path


def mirrored(pixels: NDArray[np.uint8], height: int, width: int, start: int = 0) -> NDArray[np.uint8]:
    """Return an image or map mirrored on to a size, with `start` pixels of it before its first row and column."""
    lengths = zip((height, width), pixels.shape[:2], strict=True)
    lacking = [(start, max(0, wanted - length - start)) for wanted, length in lengths]
    return np.pad(pixels, lacking + [(0, 0)] * (pixels.ndim - 2), mode="symmetric")[:height, :width]


def held_out(run: Path, preprocess: Any) -> tuple[list[Image.Image], NDArray[np.uint8]]:
    """Return some held-out images of a run, at the size that its network wants and mirrored on, and class ids."""
    from twins.data.formats.open import open_label_maps
    from twins.engine.config import read_config
    from twins.run_folder import CONFIG

    images = open_label_maps(read_config(run / CONFIG).source).val
    pictures, maps = [], []
    for index in range(0, len(images), max(1, len(images) // IMAGES))[:IMAGES]:
        image, target = images.load(index), Image.fromarray(images.target(index))
        small = target.resize(preprocess.kept_size(image), Image.Resampling.NEAREST)
        picture = mirrored(np.asarray(preprocess.resize(image)), HEIGHT, WIDTH, OFFSET)
        pictures.append(Image.fromarray(picture))
        maps.append(mirrored(np.asarray(small), HEIGHT, WIDTH, OFFSET))
    return pictures, np.stack(maps)


def beside_seams(shape: tuple[int, int], tile: int, overlap: int) -> NDArray[np.bool_]:
    """Return which pixels `(H, W)` are near to where one tile's word ends and the next one's begins."""
    from twins.tasks.semantic.inference import _spans

    near = []
    for length in shape:
        seams = [first for _, _, first, _ in _spans(length, tile, overlap)][1:]
        places = np.arange(length) + 0.5
        near.append((np.abs(places[:, None] - np.array(seams)[None]) < BAND).any(axis=1))
    return near[0][:, None] | near[1][None, :]


def print_seams(run: Path) -> None:
    import twins
    from twins.metrics.semantic import SemanticMetric
    from twins.tasks.inference import InferenceConfig

    network = twins.load(run, device="cpu").model
    images, truth = held_out(run, network.info.preprocess)
    network.info = replace(network.info, preprocess=replace(network.info.preprocess, size=HEIGHT))  # as they are

    def look(inference: InferenceConfig | None) -> tuple[NDArray[Any], float]:
        predictions = twins.Predictor(network, device="cpu", inference=inference).predict(images, batch_size=1)
        metric = SemanticMetric(network.info.names)
        metric.update(predictions, list(truth))
        return np.stack([one.label_map for one in predictions if one.label_map is not None]), metric.compute()["miou"]

    whole, score = look(None)
    if len(np.unique(whole)) == 1:
        raise SystemExit(f"{run} says {network.info.names[whole.flat[0]]} everywhere, without seams; train it longer")
    print(f"\n{network.info.model} of {run}, {len(images)} images; whole: mIoU {score:.3f}\n")
    print(f"| tile | overlap | equal labels | within {BAND} pixels of a seam | elsewhere | mIoU |\n{'| --- ' * 6}|")
    for tile, overlap in TILES:
        found, score = look(InferenceConfig(tile=tile, overlap=overlap))
        same, near = found == whole, beside_seams((HEIGHT, WIDTH), tile, overlap)
        shares = f"{same.mean():.2%} | {same[:, near].mean():.2%} | {same[:, ~near].mean():.2%}"
        print(f"| {tile} | {overlap} | {shares} | {score:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="run folder of a trained semantic network, for the seams")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the training where there is no --model")
    parser.add_argument("--sizes", nargs="*", default=["8000x10000", "4000x5000"], help="height x width; or nothing")
    parser.add_argument("--networks", nargs="+", default=["twins_svt_nano"], help="whose memory is measured")
    parser.add_argument("--tile", type=int, default=512, help="side of the tiles where memory is measured")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        return measure(given.case)
    with tempfile.TemporaryDirectory() as folder:
        if given.sizes:
            print_memory(given.sizes, given.networks, given.tile, Path(folder))
        print_seams(given.model or train_on_scenes(given.minutes, Path(folder)))


if __name__ == "__main__":
    main()
