"""Accuracy, size and speed of a trained run in int8, beside float32 and bfloat16, in ONNX Runtime and OpenVINO.

Command: python benchmarks/int8.py RUN DATA [--size 192 256] [--threads 1]
The files are those of `twins export`: int8 is calibrated on the training images of DATA, and the run and all files are
measured on its held-out images. Speed is the median over single images, in interleaved rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

import twins
from twins.bench.compare import processor
from twins.bench.timing import interleaved
from twins.exporting.config import ExportConfig
from twins.exporting.sessions import open_session
from twins.tasks.table import facts_of

ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}
FILES = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--size", type=int, nargs="+", default=[], help="height and width of the images")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, steps = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, precision in FILES:
            label, out = f"{kind} {precision}", Path(folder) / f"{precision}{ENDINGS[kind]}"
            calibrate = args.data if precision == "int8" else None
            settings = {"format": kind, "precision": precision, "calibrate": calibrate, "size": tuple(args.size)}
            rows[label] = twins.export(args.run, out, ExportConfig(**settings, data=args.data, max_drop=100)).sheet
            session = open_session(out, threads=args.threads)
            side = session.info.network.preprocess.size
            shape = (1, session.info.height or side, session.info.width or side, 3)
            steps[label] = partial(session.run, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    times = interleaved(steps, 20, 5, torch.device("cpu"))
    sheet = rows["onnx fp32"]
    metric = sheet["metric"]
    name = facts_of(sheet["task"]).monitor
    print(
        f"{sheet['model']} on {metric['data']}, {metric['images']} held-out images, {shape[1]} x {shape[2]}: "
        f"{processor()}, {args.threads} threads; the run has {100 * metric['network']:.2f} %\n\n"
        f"| file | {name} | drop in points | MB | ms an image |\n| --- | --- | --- | --- | --- |"
    )
    for label, row in rows.items():
        metric = row["metric"]
        print(
            f"| {label} | {100 * metric['file']:.2f} % | {metric['drop']:.2f} | {row['file_bytes'] / 1e6:.1f} | "
            f"{1e3 * median(times[label]):.2f} |"
        )
    print("\n", {label: row["int8"] for label, row in rows.items() if "int8" in row})


if __name__ == "__main__":
    main()
