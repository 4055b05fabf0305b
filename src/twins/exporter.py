"""`export`: a trained network as one file, verified on real images against the network."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twins.backbone.config import resolve_name
from twins.bands import AnyImage
from twins.engine.config import EvalConfig
from twins.errors import ConfigError, ExportError, check_type, number_of
from twins.evaluation import EvalResult, evaluate, versions
from twins.exported import ExportedNetwork
from twins.exporting.config import ExportConfig, Side
from twins.exporting.formats import ENDINGS, format_of
from twins.exporting.graph import ExportGraph, Shape
from twins.exporting.metadata import FileInfo
from twins.exporting.write import build_graph, write
from twins.factory import model_from_checkpoint
from twins.files import check_outputs, sha256, write_json
from twins.quantization import calibration_inputs, write_int8
from twins.run_data import data_config
from twins.run_folder import find_run, parts_of, weights_of
from twins.tasks.contract import spec_of
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of, tasks_with
from twins.verification import Verification, time_per_image, verification_images, verify
from twins.weights.store import resolve

DEFAULT_CONFIG = ExportConfig()
PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""Packages of each format, besides those of every evaluation."""
Progress = Callable[[str], None]
"""Called with a few words at the start of each step of an export."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An exported file that was verified."""

    path: Path
    """The file."""
    sheet_path: Path
    """The sheet beside it, `<stem>.json`."""
    info: FileInfo
    """What the file says of itself."""
    verification: Verification
    """How it compares with the network."""
    sheet: dict[str, Any]
    """Content of the sheet."""

    def lines(self) -> list[str]:
        """Return what people want to know of the file, in a few lines."""
        info = self.info
        shape = " x ".join(str(side or "dynamic") for side in (info.batch, info.height, info.width))
        size, weights = (f"{self.sheet[name] / 1e6:.1f} MB" for name in ("file_bytes", "weights_bytes"))
        return [
            f"{self.path}: {info.network.model}, {info.precision}, batch x height x width {shape}, {size} (weights of "
            f"the network: {weights})",
            *self.verification.lines(),
            *_sheet_lines(self.sheet),
            f"sheet: {self.sheet_path}",
        ]


def _sheet_lines(sheet: dict[str, Any]) -> list[str]:
    """Return the speed, the metric if it was measured, and what is in int8, in plain words."""
    time, metric = sheet["milliseconds"], sheet.get("metric")
    lines = []
    if time:
        images = "one image" if time["batch"] == 1 else f"one of {time['batch']} images"
        lines.append(
            f"{images} of {time['size'][0]} x {time['size'][1]} pixels takes the file {_milliseconds(time['file'])}, "
            f"the network {_milliseconds(time['network'])}"
        )
    if metric:
        lines.append(
            f"{metric['name']} on {number_of(metric['images'], 'image')} of {metric['data']}: file "
            f"{100 * metric['file']:.2f} %, network {100 * metric['network']:.2f} %"
        )
    if int8 := sheet.get("int8"):
        kept = f"; in float32, as int8 hurts them: {', '.join(int8['kept'])}" if int8["kept"] else ""
        lines.append(
            f"int8: {int8['quantized']} of {int8['layers']} layers, calibrated on {int8['images']} training images of "
            f"{int8['data']}{kept}"
        )
    return lines


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def export(
    model: str | Path | TaskNetwork,
    out: str | Path | None = None,
    config: ExportConfig = DEFAULT_CONFIG,
    *,
    on_step: Progress = lambda words: None,
) -> ExportResult:
    """Write a trained network as one file, run it on real images, and compare it with the network.

    The file takes uint8 images and returns decoded results. It carries preprocessing, class names and decoding, so
    `twins.load(path)` predicts with it as with the network.

    Args:
        model: a run folder, a checkpoint, a published name, or a network, which is not changed.
        out: file to write; `None`: in `exports/` of the run, or in the current folder.
        config: format, precision and shape of the file, and how to verify it.
        on_step: called with a few words at the start of each step, to show progress.

    Raises:
        ConfigError: settings contradict the network or each other.
        DataError, NotFoundError: an image of `verify`, or `data`, cannot be read.
        ExportError: the file does not compute what the network computes, and is kept under a name with `.failed`; or
            the format cannot hold the network.
        NotFoundError, WeightsError: the network cannot be loaded.
        MissingExtraError: a package of the extra `export` is not installed.
    """
    check_type(model, str | Path | TaskNetwork, "model", "a network, a run folder, a weight file or a published name")
    if isinstance(model, ExportedNetwork):
        raise ConfigError(f"`model` is the exported file {model.session.path}; give the run that it was made of")
    check_type(out, str | Path | None, "out", "the path of a file")
    check_type(config, ExportConfig, "config", "a twins.ExportConfig")
    config = replace(config, data=config.data or config.calibrate)  # int8 is always measured
    file = resolve(weights_of(model)) if isinstance(model, str | Path) else None
    path = _output_path(model, file, out, config)
    network = _network(model, file, config)
    images = verification_images(config.verify, network.info.in_chans)
    shape = Shape.of(config, _default_sides(network))
    if config.resize_in_graph and None in (shape.height, shape.width):
        raise ConfigError("`resize_in_graph` resizes to a fixed size; give height and width as `size`")
    if config.data:
        spec_of(network.task).open(data_config(model, config.data, EvalConfig()))  # raises errors before the long steps
    graph = build_graph(network, shape, config)
    info = _describe(graph, network, file, config)
    inputs = calibration_inputs(model, network, info, config) if config.precision == "int8" else None
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        written = Path(folder) / path.name
        on_step(f"writing {path.name}" if inputs is None else f"calibrating and measuring {path.name}")
        metric, int8 = _Metric(model, network, config), None
        if inputs is None:
            write(graph, written, info, config.format)
        else:
            int8 = write_int8(graph, written, info, config, inputs, lambda: metric.measure(written)["drop"])
        verification, sheet = _examine(network, written, shape, info, images, metric, on_step)
        sheet |= {"int8": asdict(int8)} if int8 else {}
        sheet_path = _move(written, path, sheet, failed=verification.failure is not None)
    if verification.failure:
        raise ExportError(
            f"{path} failed its verification: {verification.failure}; it is kept as {path.name}.failed, with its sheet "
            f"{sheet_path.name}"
        )
    return ExportResult(path=path, sheet_path=sheet_path, info=info, verification=verification, sheet=sheet)


def _examine(
    network: TaskNetwork,
    path: Path,
    shape: Shape,
    info: FileInfo,
    images: Mapping[str, AnyImage],
    metric: _Metric,
    on_step: Progress,
) -> tuple[Verification, dict[str, Any]]:
    """Verify a file; if it is right, measure its speed, and its metric if a data set is given. Return its sheet too."""
    on_step("verifying it")
    verification = verify(network, path, shape, info, images)
    sheet = _sheet(network, info, verification, path)
    if verification.failure:
        return verification, sheet
    on_step("measuring its speed")
    sheet["milliseconds"] = time_per_image(network, path, shape, info, next(iter(images.values())))
    if metric.data:
        on_step(f"measuring both on {metric.data}")
        sheet["metric"] = metric.measured or metric.measure(path)
        verification = replace(verification, failure=_drop(sheet["metric"], metric.max_drop))
        sheet["verification"] = asdict(verification)
    return verification, sheet


def _output_path(
    model: str | Path | TaskNetwork, file: Path | None, out: str | Path | None, config: ExportConfig
) -> Path:
    """Return the file to write; raise ConfigError if its ending is of another format, or it would replace an input."""
    ending = next(ending for ending, name in ENDINGS.items() if name == config.format)
    if out is None:
        run = find_run(model) if isinstance(model, str | Path) else None
        folder = Path() if run is None else run / "exports"
        parts = [
            _stem(model, file, run),
            *(["features"] if config.features else []),
            *([config.precision] if config.precision != "fp32" else []),
            *([config.format] if config.format != "onnx" else []),  # so that each format has its own sheet
        ]
        out = folder / f"{'-'.join(parts)}{ending}"
        if not folder.exists():
            return out  # `export` makes the folder when all settings are checked
    path = Path(out)
    if path.name.lower() == ending:
        raise ConfigError(f'`out="{out}"` is an ending without a name; name a file')
    if path.suffix.lower() != ending:
        raise ConfigError(f'`out="{out}"` must end in {ending}, the ending of `format="{config.format}"`')
    inputs = [] if file is None else [("the network's weights", file), *parts_of(str(model))]
    replaces = path.is_file() and format_of(path) == config.format
    check_outputs({"out": path}, inputs, binary=replaces)
    if config.format == "openvino" and not replaces and path.with_suffix(".bin").exists():
        raise ConfigError(
            f"the weights {path.with_suffix('.bin')} would replace another file; give `out` another name or folder"
        )
    _check_sheet(path.with_suffix(".json"))
    return path


def _stem(model: str | Path | TaskNetwork, file: Path | None, run: Path | None) -> str:
    """Return the first part of a file's name: that of the run, of the weight file, or of the published network."""
    if run is not None:
        return Path(os.path.abspath(run)).name  # also of `.`
    if isinstance(model, TaskNetwork) or file is None:
        return "network"
    return file.stem if os.path.exists(model) else resolve_name(str(model))


def _check_sheet(path: Path) -> None:
    """Raise ConfigError if a sheet would replace another JSON file."""
    try:
        replaces = "weights_sha256" in json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError):
        replaces = False
    if not replaces:
        raise ConfigError(f"the sheet {path} would replace another file; give `out` another name or folder")


def _network(model: str | Path | TaskNetwork, file: Path | None, config: ExportConfig) -> TaskNetwork:
    """Return the network in eval mode, with the selection of objects of the file."""
    network = model_from_checkpoint(str(file)) if file is not None else deepcopy(model)
    assert isinstance(network, TaskNetwork)
    if network.info.preprocess.fit != "keep" and config.sides and "dynamic" not in config.sides:
        network.info = replace(network.info, preprocess=replace(network.info.preprocess, size=_square(config)))
    if config.score is not None and not facts_of(network.task).selection:
        raise ConfigError(f"`score` is for {' and '.join(tasks_with('selection'))}, found a network for {network.task}")
    if facts_of(network.task).selection:
        network.selection = SelectionConfig() if config.score is None else SelectionConfig(score=config.score)
    return network.eval()


def _square(config: ExportConfig) -> int:
    """Return the side of the squares that a classifier sees."""
    height, width = config.sides or (0, 0)
    if height != width:
        raise ConfigError(f"a classifier sees squares, found `size=({height}, {width})`; give one number, or dynamic")
    return int(height)


def _default_sides(network: TaskNetwork) -> tuple[Side, Side]:
    preprocess = network.info.preprocess
    return ("dynamic", "dynamic") if preprocess.fit == "keep" else (preprocess.size, preprocess.size)


def _describe(graph: ExportGraph, network: TaskNetwork, file: Path | None, config: ExportConfig) -> FileInfo:
    """Return what the file says of itself."""
    shape = graph.shape
    packages = (*PACKAGES[config.format], *(["onnxruntime"] if config.precision == "int8" else []))
    return FileInfo(
        network=network.info,
        precision=config.precision,
        batch=shape.batch,
        height=None if config.resize_in_graph else shape.height,
        width=None if config.resize_in_graph else shape.width,
        padded=config.padded,
        resize_in_graph=config.resize_in_graph,
        features=config.features,
        outputs=tuple(graph.output_names),
        selection=network.selection if facts_of(network.task).selection and not config.features else None,
        versions=versions() | {name: version(name) for name in packages},
        weights_sha256=sha256(file) if file is not None else hash_weights(network),
    )


def _sheet(network: TaskNetwork, info: FileInfo, verification: Verification, path: Path) -> dict[str, Any]:
    """Return the content of the sheet: the description of the file, its verification and its size."""
    weights = network.backbone if info.features else network
    return info.to_dict() | {
        "verification": asdict(verification),
        "file_bytes": sum(part.stat().st_size for part in path.parent.iterdir()),
        "weights_bytes": sum(tensor.nbytes for tensor in weights.state_dict().values()),
        "milliseconds": None,
    }


class _Metric:
    """The monitored metric of a network and of its files, on the held-out part of the data set of `config.data`."""

    measured: dict[str, Any] | None = None
    """The last result of `measure`."""

    def __init__(self, model: str | Path | TaskNetwork, network: TaskNetwork, config: ExportConfig) -> None:
        self.model, self.network, self.data, self.max_drop = model, network, config.data, config.max_drop
        self.name = facts_of(network.task).monitor

    def measure(self, path: Path) -> dict[str, Any]:
        """Return the metric of the network and of a file, and the points of per cent between them."""
        network, file = self._of_network, self._evaluate(path).metrics[self.name]
        values = {"network": network.metrics[self.name], "file": file}
        drop = 100 * (values["network"] - file)
        images = network.protocol["images"]
        self.measured = {"name": self.name, "data": self.data, "images": images, **values, "drop": drop}
        return self.measured

    @cached_property
    def _of_network(self) -> EvalResult:
        return self._evaluate(self.network)

    def _evaluate(self, model: Path | TaskNetwork) -> EvalResult:
        assert self.data is not None
        source = data_config(self.model, self.data, EvalConfig())
        settings = EvalConfig(
            device="cpu",
            seed=source.seed,
            val_share=source.val_share,
            masks=source.masks,
            boxes=source.boxes,
            layout=source.layout,
            selection=self.network.selection if facts_of(self.network.task).selection else SelectionConfig(),
        )
        return evaluate(model, self.data, settings)


def _drop(metric: dict[str, Any], limit: float) -> str | None:
    """Return a sentence if a file has lost more of a metric than is allowed."""
    if metric["drop"] <= limit:
        return None
    return (
        f"its {metric['name']} on {metric['data']} is {100 * metric['file']:.2f} %, {metric['drop']:.2f} points below "
        f"the network's, `max_drop` is {limit:g}"
    )


def hash_weights(network: TaskNetwork) -> str:
    """Return the SHA-256 of a network's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _move(written: Path, path: Path, sheet: dict[str, Any], *, failed: bool) -> Path:
    """Move the file, and the weights beside it, to their place or a name with `.failed`; return the path of its sheet.

    A failed export leaves an older file of the name, and its sheet, as they are.
    """
    sheet_path = path.with_suffix(".failed.json" if failed else ".json")
    for part in sorted(written.parent.iterdir()):
        os.replace(part, path.with_name(f"{part.name}.failed" if failed else part.name))
    write_json(sheet_path, sheet)
    return sheet_path
