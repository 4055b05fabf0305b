"""Accuracy and speed of a trained classifier in int8, beside float32.

Command: python benchmarks/int8.py RUN [--data digits] [--calibration 256]
RUN is a run folder or a checkpoint of a classifier, for example from `twins demo`. The same held-out images are
classified with PyTorch, OpenVINO in float32 and OpenVINO in int8, which is calibrated on training images. Speed is
measured on single images, in interleaved rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from statistics import median

import torch
from torch import Tensor

from twins.bench.compare import processor
from twins.bench.networks import inference_step
from twins.bench.runtimes import openvino_step
from twins.bench.timing import interleaved
from twins.data.base import LabelledImages
from twins.data.config import DataConfig
from twins.data.loading.loader import EvalSamples, eval_loader
from twins.exporting.config import ExportConfig
from twins.exporting.graph import Shape
from twins.exporting.int8 import quantize
from twins.exporting.openvino import convert_openvino
from twins.exporting.sessions import compile_openvino
from twins.exporting.write import build_graph
from twins.factory import model_from_checkpoint
from twins.run_folder import weights_of
from twins.tasks.classification.network import Classification
from twins.tasks.classification.spec import SPEC

BATCH = 32
CPU = torch.device("cpu")
Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--calibration", type=int, default=256, help="number of training images for calibration")
    parser.add_argument("--preset", default="performance", choices=["performance", "mixed"])
    parser.add_argument("--keep", nargs="*", default=[], help="name patterns of operations that stay in float32")
    args = parser.parse_args()
    network = model_from_checkpoint(weights_of(args.run))
    assert isinstance(network, Classification)
    splits = SPEC.open(DataConfig(data=args.data))
    train, held_out = (batches(network, images) for images in (splits.train, splits.val))
    height, width = held_out[0][0].shape[1:3]
    config = ExportConfig(format="openvino", batch="dynamic", logits=True)
    model = convert_openvino(build_graph(network, Shape(None, height, width), config))
    calibration = [images for images, _ in islice(train, -(-args.calibration // BATCH))]
    quantized = quantize(model, calibration, preset=args.preset, keep=args.keep)
    compiled = {"openvino fp32": compile_openvino(model), "openvino int8": compile_openvino(quantized)}
    predict: dict[str, Callable[[Tensor], Tensor]] = {"pytorch fp32": lambda x: network(normalised(network, x))} | {
        label: lambda x, run=run: torch.from_numpy(run(x.numpy())[0]) for label, run in compiled.items()
    }
    image = held_out[0][0][:1].contiguous()  # OpenVINO shares its memory
    steps = {"pytorch fp32": inference_step(network, normalised(network, image))}
    for label, any_batch in (("openvino fp32", model), ("openvino int8", quantized)):
        single = any_batch.clone()
        single.reshape(image.shape)
        steps[label] = openvino_step(single, image.numpy(), "fp32")
    times = interleaved(steps, 50, 5, CPU)
    images = sum(len(labels) for _, labels in held_out)
    print(
        f"{network.info.model} on {args.data}, {images} held-out images of {height} x {width}: {processor()}, "
        f"{torch.get_num_threads()} threads\n\n| by | top-1 | ms an image |\n| --- | --- | --- |"
    )
    for label, classify in predict.items():
        print(f"| {label} | {100 * top1(classify, held_out):.2f} % | {1e3 * median(times[label]):.2f} |")


def batches(network: Classification, images: LabelledImages) -> Batches:
    """Return pixels, uint8 `(B, H, W, C)`, with their labels, loaded as in evaluation."""
    samples = EvalSamples(images, SPEC.eval_transform(network.info.preprocess))
    loaded = eval_loader(samples, batch=BATCH)
    return [(batch.images.permute(0, 2, 3, 1).contiguous(), torch.as_tensor(batch.targets)) for batch in loaded]


def normalised(network: Classification, pixels: Tensor) -> Tensor:
    """Return pixels, uint8 `(B, H, W, C)`, as the network takes them."""
    return network.eval().prepare(pixels.permute(0, 3, 1, 2), None)[0]


@torch.inference_mode()
def top1(classify: Callable[[Tensor], Tensor], held_out: Batches) -> float:
    """Return the share of images whose most probable class is right."""
    right = sum(int((classify(images).argmax(dim=1) == labels).sum()) for images, labels in held_out)
    return right / sum(len(labels) for _, labels in held_out)


if __name__ == "__main__":
    main()
