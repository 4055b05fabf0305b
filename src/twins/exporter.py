"""`export`: a trained network as one file, verified on real images against the network."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twins.errors import ConfigError, ExportError, check_type
from twins.evaluation import versions
from twins.exporting.config import ExportConfig, Side
from twins.exporting.formats import ENDINGS
from twins.exporting.graph import Shape
from twins.exporting.metadata import FileInfo
from twins.exporting.write import build_graph, write
from twins.factory import model_from_checkpoint
from twins.files import check_outputs, sha256, write_json
from twins.run_folder import find_run, parts_of, weights_of
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of, tasks_with
from twins.verification import Verification, verify
from twins.weights.store import resolve

DEFAULT_CONFIG = ExportConfig()
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch": ()}
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
        info, size = self.info, self.sheet["file_bytes"]
        shape = " x ".join(str(side or "dynamic") for side in (info.batch, info.height, info.width))
        head = (
            f"{self.path}: {info.network.model}, {info.precision}, batch x height x width {shape}, {size / 1e6:.1f} MB"
        )
        return [head, *self.verification.lines(), f"sheet: {self.sheet_path}"]


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
        out: file to write; `None`: in `exports/` of the run, or in the working folder.
        config: format, precision and shape of the file, and how to verify it.
        on_step: called with a few words at the start of each step, to show progress.

    Raises:
        ConfigError: settings contradict the network or each other.
        ExportError: the file does not compute what the network computes; it is kept under a name with `.failed`.
        NotFoundError, WeightsError: the network cannot be loaded.
        MissingExtraError: a package of the extra `export` is not installed.
    """
    check_type(model, str | Path | TaskNetwork, "model", "a network, a run folder, a weight file or a published name")
    check_type(out, str | Path | None, "out", "the path of a file")
    check_type(config, ExportConfig, "config", "a twins.ExportConfig")
    file = resolve(weights_of(model)) if isinstance(model, str | Path) else None
    path = _output_path(model, file, out, config)
    network = _network(model, file, config)
    shape = Shape.of(config, _default_sides(network))
    info = _describe(network, file, config, shape)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        written = Path(folder) / path.name
        on_step(f"writing {path.name}")
        write(network, written, info, shape, config)
        on_step("verifying it")
        verification = verify(network, written, shape, config)
        sheet = _sheet(info, verification, written)
        _move(written, path, failed=bool(verification.failure))
    if verification.failure:
        raise ExportError(f"{path} does not compute what the network computes: {verification.failure}")
    sheet_path = path.with_suffix(".json")
    write_json(sheet_path, sheet)
    return ExportResult(path=path, sheet_path=sheet_path, info=info, verification=verification, sheet=sheet)


def _output_path(
    model: str | Path | TaskNetwork, file: Path | None, out: str | Path | None, config: ExportConfig
) -> Path:
    """Return the file to write; raise ConfigError if its ending is of another format, or it would replace an input."""
    ending = next(ending for ending, name in ENDINGS.items() if name == config.format)
    if out is None:
        run = find_run(model) if isinstance(model, str | Path) else None
        folder = Path() if run is None else run / "exports"
        name = "network" if file is None else (run or file).stem if run is None else run.name
        parts = [
            name,
            *(["features"] if config.features else []),
            *([config.precision] if config.precision != "fp32" else []),
        ]
        folder.mkdir(exist_ok=True)
        out = folder / f"{'-'.join(parts)}{ending}"
    path = Path(out)
    if path.suffix.lower() != ending:
        raise ConfigError(f'`out="{out}"` must end in {ending}, the ending of `format="{config.format}"`')
    inputs = [] if file is None else [("the network's weights", file), *parts_of(str(model))]
    check_outputs({"out": path}, inputs)
    return path


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


def _describe(network: TaskNetwork, file: Path | None, config: ExportConfig, shape: Shape) -> FileInfo:
    """Return what the file says of itself."""
    graph = build_graph(network, shape, config)
    return FileInfo(
        network=network.info,
        precision=config.precision,
        batch=shape.batch,
        height=None if config.resize_in_graph else shape.height,
        width=None if config.resize_in_graph else shape.width,
        padded=config.padded,
        resize_in_graph=config.resize_in_graph,
        features=config.features,
        outputs=tuple(graph.output_names()),
        selection=network.selection if facts_of(network.task).selection and not config.features else None,
        versions=versions() | {name: version(name) for name in PACKAGES[config.format]},
        weights_sha256=sha256(file) if file is not None else hash_weights(network),
    )


def _sheet(info: FileInfo, verification: Verification, path: Path) -> dict[str, Any]:
    """Return the content of the sheet: the description of the file, its verification and its size."""
    size = sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*"))
    return info.to_dict() | {"verification": asdict(verification), "file_bytes": size}


def hash_weights(network: TaskNetwork) -> str:
    """Return the SHA-256 of a network's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _move(written: Path, path: Path, *, failed: bool) -> None:
    """Move the file, and the weights beside it, to their place, or under a name with `.failed`."""
    ending = ".failed" if failed else ""
    for part in sorted(written.parent.glob(f"{written.stem}.*")):
        os.replace(part, path.with_name(part.name + ending))
