"""`write_int8`: a network as a file in int8, calibrated on a user's images, with float32 parts where int8 hurts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import Derived, ImageSet
from twins.data.channels import in_channels
from twins.data.loading.loader import EvalSamples, eval_loader
from twins.engine.config import EvalConfig
from twins.errors import DataError
from twins.exported import ExportedNetwork
from twins.exporting import writers
from twins.exporting.config import ExportConfig
from twins.exporting.extra import require
from twins.exporting.formats import Format
from twins.exporting.graph import ExportGraph
from twins.exporting.int8 import find_layers, prepare, quantize, rank
from twins.exporting.metadata import FileInfo
from twins.exporting.onnx import write_onnx
from twins.exporting.sessions import Arrays, Session
from twins.exporting.write import export_errors
from twins.run_data import data_config
from twins.tasks.contract import spec_of
from twins.tasks.network import TaskNetwork

MOST_IMAGES = 300
"""Training images that measure the ranges of activations, spread evenly."""
RANKING = 8
"""Inputs on which the error of each part is measured."""
LARGEST_SHARE = 0.5
"""Share of the parts beyond which no more of them are kept in float32: such a file has little of int8 left."""


@dataclass(frozen=True, kw_only=True)
class Int8:
    """What is in int8 in a file, for its sheet."""

    data: str
    """The data set that it was calibrated on."""
    images: int
    """Number of training images."""
    layers: int
    """Layers with weights in the network."""
    quantized: int
    """Those of them in int8."""
    kept: tuple[str, ...]
    """Parts that were kept in float32 because int8 cost more of the metric than `max_drop`, the worst first."""
    errors: dict[str, float]
    """Relative error that each part causes alone, largest first; empty if nothing had to be kept."""


class CalibrationInputs:
    """Inputs of a file for the training images of a data set, as evaluations give them; read anew in each iteration.

    Args:
        images: image set.
        network: the network of the file.
        info: description of the file.
    """

    def __init__(self, images: ImageSet, network: TaskNetwork, info: FileInfo) -> None:
        self._recorded: list[Arrays] = []
        self.file = ExportedNetwork(Session(Path("calibration"), info, self._record))
        self.batch = info.batch or 1
        indices = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).round().astype(int))
        self.images = in_channels(Derived(images, indices.tolist()), network.info.in_chans)
        self.transform = spec_of(network.task).eval_transform(self.file.info.preprocess)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        for batch in eval_loader(EvalSamples(self.images, self.transform), batch=self.batch):
            if batch.indices:
                self.file(*self.file.prepare(batch.images, batch.sizes))
                yield from self._recorded
                self._recorded.clear()

    def _record(self, inputs: Arrays) -> Arrays:
        self._recorded.append(inputs)
        return {}


def calibration_inputs(
    model: str | Path | TaskNetwork, network: TaskNetwork, info: FileInfo, config: ExportConfig
) -> CalibrationInputs:
    """Open the data set of `calibrate`.

    Raises:
        DataError: it cannot be read, is of another task, or has no training images.
    """
    assert config.calibrate is not None
    images = spec_of(network.task).open(data_config(model, config.calibrate, EvalConfig())).train
    if not len(images):
        raise DataError(f"{config.calibrate} has no training images to calibrate int8 on; give another data set")
    return CalibrationInputs(images, network, info)


def write_int8(
    graph: ExportGraph,
    path: Path,
    info: FileInfo,
    config: ExportConfig,
    inputs: CalibrationInputs,
    drop: Callable[[], float],
) -> Int8:
    """Write a network as a file in int8; while it loses too much, keep the parts that hurt most in float32.

    Args:
        graph: of the network in float32, from `build_graph` for the format.
        path: file to write.
        info: description to store in the file.
        config: format, largest drop and outputs.
        inputs: from `calibration_inputs`.
        drop: returns how many points of the metric the file at `path` has lost.

    Raises:
        ExportError: ONNX has no operator for one of the network, or the network cannot be traced.
        MissingExtraError: a package of the format is not installed.
    """
    assert config.calibrate is not None
    with tempfile.TemporaryDirectory(prefix="twins-export-") as folder:
        source, quantized = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        with export_errors(config.format):
            write_onnx(graph, source)
        parts = prepare(source)

        def write(kept: tuple[str, ...]) -> None:
            quantize(source, quantized, inputs, _layers(parts, kept), config.format)
            _finish(quantized, path, info, config.format)

        kept, errors = keep_what_hurts(
            list(parts),
            write,
            lambda: drop() <= config.max_drop,
            lambda: rank(source, list(islice(inputs, RANKING)), parts),
        )
        layers = sum(map(len, find_layers(source).values()))
    return Int8(
        data=config.calibrate,
        images=len(inputs.images),
        layers=layers,
        quantized=len(_layers(parts, kept)),
        kept=kept,
        errors=errors,
    )


def _layers(parts: dict[str, list[str]], kept: tuple[str, ...]) -> list[str]:
    """Return the layers of all parts except those that are kept in float32."""
    return [name for part, names in parts.items() if part not in kept for name in names]


def keep_what_hurts(
    parts: list[str],
    write: Callable[[tuple[str, ...]], None],
    is_good: Callable[[], bool],
    rank: Callable[[], dict[str, float]],
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Write a file with all parts in int8, then with more and more of the worst in float32 until it is good.

    Args:
        parts: all parts.
        write: writes a file with some parts in float32.
        is_good: whether the file written last is good.
        rank: returns the error of each part, largest first; called only if the first file is not good.

    Returns:
        the parts in float32 in the file written last, and the errors.
    """
    write(())
    if is_good():
        return (), {}
    errors, kept, number = rank(), tuple[str, ...](), 1
    while number <= LARGEST_SHARE * len(parts):
        kept = tuple(islice(errors, number))
        write(kept)
        if is_good():
            break
        number *= 2
    return kept, errors


def _finish(quantized: Path, path: Path, info: FileInfo, file_format: Format) -> None:
    """Write a quantised ONNX file in another format, or as it is, with its description."""
    if file_format == "onnx":
        path.write_bytes(quantized.read_bytes())
        writers.describe_onnx(path, info)
    else:
        writers.write_openvino(require("openvino").convert_model(quantized), path, info)
