"""Inference by tiles: memory for large images, the change of labels at the seams, and the objects that are found.

Commands: python benchmarks/tiles.py [--model RUN]
          python benchmarks/tiles.py --task instance --classes 3 --sizes 1500x2000 3000x4000
          python benchmarks/tiles.py --objects RUN

Memory: an image file (scikit-learn's photographs, extended by mirroring) is predicted by tiles on the CPU, each case in
a process of its own. The peak is the growth of the process's resident size since it predicted a small image. The image
and its label map take four bytes per pixel, Pillow pads RGB with a fourth byte, and the tile takes the rest. Weights
are random, which does not change the memory.

Seams: a trained network predicts held-out images of its own data, extended to 1024 x 768 by mirroring, both whole and
by tiles. Without --model, a network is trained on `scenes` first.

Objects: a detector of `scenes`, such as that of `twins demo --task instance`, predicts mosaics of held-out scenes,
whole and by tiles. Tiles are merged by agreement, as `predict` does, and by NMS alone for comparison.
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
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIB = 2**20
CLASSES = (3, 150)
"""Numbers of classes for which memory is measured: a small data set's and ADE20K's."""
WIDTH, HEIGHT, OFFSET = 1024, 768, 50
"""Size of the images for the seams, and the offset of the original image in them, so that no tile starts there."""
IMAGES = 4
TILES = ((128, 0), (128, 32), (256, 0), (256, 64), (384, 0), (384, 96), (512, 0), (512, 128))
"""Side and overlap of tiles: no overlap, and a quarter of the side, which is the default."""
MOSAICS, SCENES_DOWN, SCENES_ACROSS = 4, 3, 4
"""Number of mosaics of scenes for the objects, and the scenes in each: 336 x 448 pixels."""
OBJECT_TILES = ((224, 56), (128, 48), (128, 32))
"""Side and overlap of tiles for the objects, whose longer sides are 34 pixels in the median and at most 41."""
BAND = 16
"""Distance from a seam within which a pixel counts as beside it, in pixels."""


def write_photograph(path: Path, height: int, width: int) -> None:
    """Write scikit-learn's photographs, extended to a size by mirroring."""
    from sklearn.datasets import load_sample_images

    both = np.concatenate(load_sample_images().images)
    Image.fromarray(mirrored(both, height, width)).save(path, compress_level=1)


def measure(case: dict[str, Any]) -> None:
    """Print a case's peak memory in bytes and its seconds; runs in a process of its own."""
    from twins.engine.memory import resident, start_peak

    run = _prediction(**case) if case["model"] else _decoding(case["file"])
    before = start_peak()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    print(resident("VmHWM") - before, f"{seconds:.1f}")


def _decoding(file: str) -> Any:
    """Return a function that decodes an image file."""

    def decode() -> None:
        with Image.open(file) as image:
            image.load()

    return decode


def _prediction(file: str, model: str, classes: int, tile: int, task: str) -> Any:
    """Return a function that predicts an image file by tiles."""
    import twins
    from twins.tasks.inference import InferenceConfig

    network = twins.create_model(model, task=task, num_classes=classes)
    predictor = twins.Predictor(network, device="cpu", inference=InferenceConfig(tile=tile))
    predictor.predict(np.zeros((32, 32, 3), dtype=np.uint8))  # loads the libraries that are imported on first use
    return lambda: predictor.predict(file)


def _run(**case: Any) -> tuple[float, str]:
    """Measure a case in a new process; return its peak in MiB and its seconds."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True, check=True
    )
    peak, seconds = done.stdout.split()[-2:]
    return int(peak) / MIB, seconds


def print_memory(args: argparse.Namespace, folder: Path) -> None:
    """Print the table of peak memory by image size, network and number of classes."""
    print("MiB beyond the process before:\n")
    print("| image, H x W | network | classes | tile | decoding alone | peak | image + map | fourth byte | rest | s |")
    print("| --- " * 10 + "|")
    for size in args.sizes:
        height, width = map(int, size.split("x"))
        file = folder / f"{size}.png"
        write_photograph(file, height, width)
        decoding, _ = _run(file=str(file), model=None)
        needed, fourth = height * width * (3 + 1) / MIB, height * width / MIB
        for model, classes in product(args.networks, args.classes):
            peak, seconds = _run(file=str(file), model=model, classes=classes, tile=args.tile, task=args.task)
            parts = [decoding, peak, needed, fourth, peak - needed - fourth]
            numbers = " | ".join(f"{part:.0f}" for part in parts)
            print(f"| {height:,} x {width:,} | {model} | {classes} | {args.tile} | {numbers} | {seconds} |", flush=True)
        file.unlink()


def train_on_scenes(minutes: float, folder: Path) -> Path:
    """Train a semantic network on `scenes` and return its run folder."""
    import twins
    from twins.tasks.semantic.recipes import scenes

    return twins.train(replace(scenes(), minutes=minutes, out=str(folder / "run"))).path


def mirrored(pixels: NDArray[np.uint8], height: int, width: int, start: int = 0) -> NDArray[np.uint8]:
    """Extend an image or a map to a size by mirroring, with `start` pixels before its first row and column."""
    lengths = zip((height, width), pixels.shape[:2], strict=True)
    padding = [(start, max(0, target - length - start)) for target, length in lengths]
    return np.pad(pixels, padding + [(0, 0)] * (pixels.ndim - 2), mode="symmetric")[:height, :width]


def held_out(run: Path, preprocess: Any) -> tuple[list[Image.Image], NDArray[np.uint8]]:
    """Return some held-out images of a run and their class ids, resized for its network and extended by mirroring."""
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
    """Return the mask `(H, W)` of pixels within `BAND` of a seam, where the labels of two tiles meet."""
    from twins.tasks.inference import InferenceConfig
    from twins.tasks.semantic.inference import _owned_pixels

    near = []
    for length in shape:
        seams = [first for _, (first, _) in _owned_pixels(length, InferenceConfig(tile=tile, overlap=overlap))][1:]
        centres = np.arange(length) + 0.5
        near.append((np.abs(centres[:, None] - np.array(seams)[None]) < BAND).any(axis=1))
    return near[0][:, None] | near[1][None, :]


def print_seams(run: Path) -> None:
    """Print the share of pixels with the same label as without tiles, beside the seams and elsewhere."""
    import twins
    from twins.metrics.semantic import SemanticMetric
    from twins.tasks.inference import InferenceConfig

    network = twins.load(run, device="cpu").model
    images, truth = held_out(run, network.info.preprocess)
    no_resize = replace(network.info.preprocess, size=HEIGHT)  # the images have this height already
    network.info = replace(network.info, preprocess=no_resize)

    def predict(inference: InferenceConfig | None) -> tuple[NDArray[Any], float]:
        predictions = twins.Predictor(network, device="cpu", inference=inference).predict(images, batch_size=1)
        metric = SemanticMetric(network.info.names)
        metric.update(predictions, list(truth))
        return np.stack([each.label_map for each in predictions if each.label_map is not None]), metric.compute()[
            "miou"
        ]

    untiled, miou = predict(None)
    if len(np.unique(untiled)) == 1:
        name = network.info.names[untiled.flat[0]]
        raise SystemExit(f"{run} predicts {name} for every pixel, so there are no seams; train it longer")
    print(f"\n{network.info.model} of {run}, {len(images)} images; whole: mIoU {miou:.3f}\n")
    print(f"| tile | overlap | equal labels | within {BAND} pixels of a seam | elsewhere | mIoU |\n{'| --- ' * 6}|")
    for tile, overlap in TILES:
        tiled, miou = predict(InferenceConfig(tile=tile, overlap=overlap))
        equal, near = tiled == untiled, beside_seams((HEIGHT, WIDTH), tile, overlap)
        shares = f"{equal.mean():.2%} | {equal[:, near].mean():.2%} | {equal[:, ~near].mean():.2%}"
        print(f"| {tile} | {overlap} | {shares} | {miou:.3f} |", flush=True)


def mosaic(number: int) -> tuple[Image.Image, Any]:
    """Return a mosaic of held-out scenes and its objects."""
    from twins.data.formats.scenes import SIDE, draw_scene
    from twins.data.objects import build_objects, encode_mask

    height, width = SCENES_DOWN * SIDE, SCENES_ACROSS * SIDE
    image, boxes, labels, masks = Image.new("RGB", (width, height)), [], [], []
    for cell in range(SCENES_DOWN * SCENES_ACROSS):
        scene = draw_scene(number * SCENES_DOWN * SCENES_ACROSS + cell, train=False)
        top, left = cell // SCENES_ACROSS * SIDE, cell % SCENES_ACROSS * SIDE
        image.paste(scene.image, (left, top))
        boxes += (scene.boxes + np.array([left, top, left, top])).tolist()
        labels += scene.labels.tolist()
        for mask in scene.masks:
            canvas = np.zeros((height, width), dtype=np.bool_)
            canvas[top : top + SIDE, left : left + SIDE] = mask
            masks.append(encode_mask(canvas))
    return image, build_objects(boxes, labels, size=(height, width), image_id=number, masks=masks)


def print_objects(run: Path) -> None:
    """Print the average precision and the errors of a detector on mosaics, whole and by tiles."""
    import twins
    from twins.tasks.detection import inference as detection_inference

    network = twins.load(run, device="cpu").model
    unchanged = replace(network.info.preprocess, size=SCENES_DOWN * 112, longest=SCENES_ACROSS * 112)
    network.info = replace(network.info, preprocess=unchanged)  # the mosaics are not resized
    images, truth = (list(column) for column in zip(*map(mosaic, range(MOSAICS)), strict=True))
    print(f"{network.info.head} of {run}, {MOSAICS} mosaics, {sum(len(each.labels) for each in truth)} objects\n")
    print("| | merged by | box AP | box AP50 | duplicates | missed |\n" + "| --- " * 6 + "|")
    found: list[Any] = []

    def merge_and_keep(*args: Any, **selection: Any) -> Any:
        found.append((args[0], selection))
        return merge_tiles(*args, **selection)

    merge_tiles = detection_inference.merge_tiles
    selection = twins.SelectionConfig(most=300)
    predictor = twins.Predictor(network, device="cpu", selection=selection)
    print_precision("whole", "", network, predictor.predict(images, batch_size=1), truth)
    for tile, overlap in OBJECT_TILES:
        inference = twins.InferenceConfig(tile=tile, overlap=overlap)
        predictor = twins.Predictor(network, device="cpu", selection=selection, inference=inference)
        found.clear()
        with mock.patch.object(detection_inference, "merge_tiles", merge_and_keep):
            predictions = predictor.predict(images)
        title = f"tile {tile}, overlap {overlap}"
        print_precision(title, "agreement", network, predictions, truth)
        print_precision(title, "NMS alone", network, merged_by_nms(network, found), truth)


def merged_by_nms(network: Any, found: list[Any]) -> list[Any]:
    """Return predictions from the objects of all tiles of each mosaic, merged as if they were of one pass."""
    from twins.heads.merging import Merged, select
    from twins.tasks.detection.network import objects_prediction

    size = (SCENES_DOWN * 112, SCENES_ACROSS * 112)
    merged = [
        select(Merged(*objects[:3], [[row] for row in range(len(objects.scores))]), **selection)
        for objects, selection in found
    ]
    return [objects_prediction(network, each, size) for each in merged]


def print_precision(title: str, merged_by: str, network: Any, predictions: list[Any], truth: list[Any]) -> None:
    """Print a row with the average precision of boxes, and the errors at the score with the best F1."""
    from twins.metrics.detection import DetectionMetric

    metric = DetectionMetric(network.info.names, masks=False, full=True)
    metric.update(predictions, truth)
    values, errors = metric.compute(), metric.details()["errors"]["box"]["types"]
    shares = f"{100 * values['box_ap']:.1f} | {100 * values['box_ap50']:.1f}"
    counts = f"{errors['duplicate']['count']} | {errors['missed']['count']}"
    print(f"| {title} | {merged_by} | {shares} | {counts} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="run folder of a trained semantic network, for the seams")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the training without --model")
    parser.add_argument(
        "--sizes",
        nargs="*",
        default=["8000x10000", "4000x5000"],
        help="height x width of the images for memory; none skips memory",
    )
    parser.add_argument("--networks", nargs="+", default=["twins_svt_nano"], help="networks for memory")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES, help="numbers of classes for memory")
    parser.add_argument("--tile", type=int, default=512, help="side of the tiles for memory, in pixels")
    parser.add_argument("--task", default="semantic", help="task of the networks for memory")
    parser.add_argument("--objects", type=Path, help="run folder of a detector of `scenes`; prints the objects alone")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        return measure(args.case)
    if args.objects:
        return print_objects(args.objects)
    with tempfile.TemporaryDirectory() as folder:
        if args.sizes:
            print_memory(args, Path(folder))
        if args.task == "semantic":
            print_seams(args.model or train_on_scenes(args.minutes, Path(folder)))


if __name__ == "__main__":
    main()
