"""What int8 costs a trained classifier in accuracy, and what it gains in speed.

Command: python benchmarks/int8.py RUN [--data digits] [--calibration 256]
RUN is a run folder or a checkpoint of a classifier, such as `twins demo` leaves. The same held-out images go through
PyTorch, OpenVINO in float32 and OpenVINO in int8, whose ranges are read off training images. Speed is that of single
images, interleaved.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from statistics import median

import torch
from torch import Tensor

from twins.bench.compare import processor
from twins.bench.runtimes import openvino_step
from twins.bench.subjects import inference_step
from twins.bench.timing import interleaved
from twins.data.base import LabelledImages
from twins.data.config import DataConfig
from twins.data.loading.batch import normalised
from twins.data.loading.loader import EvalSamples, eval_loader
from twins.exporting.int8 import quantize
from twins.exporting.openvino import compile_openvino, convert_openvino
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
    parser.add_argument("--calibration", type=int, default=256, help="training images whose ranges are read")
    parser.add_argument("--preset", default="performance", choices=["performance", "mixed"])
    parser.add_argument("--keep", nargs="*", default=[], help="names of operations that stay in float32, as patterns")
    args = parser.parse_args()
    network = model_from_checkpoint(weights_of(args.run))
    assert isinstance(network, Classification)
    splits = SPEC.open(DataConfig(data=args.data))
    train, held_out = (batches(network, images) for images in (splits.train, splits.val))
    size = tuple(held_out[0][0].shape[2:])
    model = convert_openvino(network, size=size, batch=None)
    seen = [images for images, _ in islice(train, -(-args.calibration // BATCH))]
    small = quantize(model, seen, preset=args.preset, keep=args.keep)
    compiled = {"openvino fp32": compile_openvino(model), "openvino int8": compile_openvino(small)}
    predict: dict[str, Callable[[Tensor], Tensor]] = {"pytorch fp32": network.eval()} | {
        label: lambda x, found=found: torch.from_numpy(found(x.numpy())[0]) for label, found in compiled.items()
    }
    one = held_out[0][0][:1].contiguous()  # OpenVINO reads it where it lies
    steps = {"pytorch fp32": inference_step(network, one)}
    for label, whole in (("openvino fp32", model), ("openvino int8", small)):
        single = whole.clone()
        single.reshape(one.shape)
        steps[label] = openvino_step(single, one.numpy(), "fp32")
    times = interleaved(steps, 50, 5, CPU)
    images = sum(len(labels) for _, labels in held_out)
    print(
        f"{network.info.model} on {args.data}, {images} held-out images of {size[0]} x {size[1]}: {processor()}, "
        f"{torch.get_num_threads()} threads\n\n| by | top-1 | ms an image |\n| --- | --- | --- |"
    )
    for label, call in predict.items():
        print(f"| {label} | {100 * top1(call, held_out):.2f} % | {1e3 * median(times[label]):.2f} |")


def batches(network: Classification, images: LabelledImages) -> Batches:
    """Return prepared images with their labels, as evaluation reads them."""
    samples = EvalSamples(images, SPEC.eval_transform(network.info.preprocess))
    found = (normalised(batch, network.info.preprocess, CPU) for batch in eval_loader(samples, batch=BATCH))
    return [(batch.images, torch.as_tensor(batch.targets)) for batch in found]


@torch.inference_mode()
def top1(predict: Callable[[Tensor], Tensor], held_out: Batches) -> float:
    right = sum(int((predict(images).argmax(dim=1) == labels).sum()) for images, labels in held_out)
    return right / sum(len(labels) for _, labels in held_out)


if __name__ == "__main__":
    main()
