"""Sessions: exported files that are open for prediction, with the same call for each runtime."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from twins.errors import ConfigError, InputError, TwinsError, WeightsError
from twins.exporting.archive import load_archive
from twins.exporting.extra import require
from twins.exporting.formats import TITLES, Format, read_info
from twins.exporting.metadata import IMAGES, SIZES, SMALLEST, FileInfo
from twins.files import first_line

if TYPE_CHECKING:
    import openvino

Arrays = dict[str, NDArray[Any]]
"""Inputs or outputs of a file by name."""
Hint = Literal["latency", "throughput"]
Run = Callable[[Arrays], Arrays]


class Session:
    """An exported file, open for prediction.

    Several threads may call `run` at the same time: a session of ONNX Runtime or PyTorch has no state between calls,
    and with OpenVINO each thread has its own request.
    """

    def __init__(self, path: Path, info: FileInfo, run: Run) -> None:
        self.path = path
        """The file."""
        self.info = info
        """Its description."""
        self._run = run

    def __repr__(self) -> str:
        network = self.info.network
        return f"Session({str(self.path)!r}, task={network.task!r}, model={network.model!r})"

    def run(self, images: NDArray[np.uint8], sizes: NDArray[np.int64] | None = None) -> Arrays:
        """Return the outputs of a batch by name.

        Args:
            images: uint8 `(B, H, W, C)`, at the size that the network sees.
            sizes: true height and width of each image in a padded batch, integers `(B, 2)`; `None`: images fill it.

        Raises:
            InputError: the file does not take such images or sizes.
            WeightsError: its graph is damaged, or of another shape than its description says.
            MemoryError: there is too little memory for such images.
        """
        check_images(images, self.info)
        inputs: Arrays = {IMAGES: np.ascontiguousarray(images)}
        if (checked := check_sizes(sizes, images, self.info)) is not None:
            inputs[SIZES] = checked
        return self._run(inputs)


def open_session(
    path: str | Path,
    *,
    threads: int | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Session:
    """Open an exported file for prediction; its content says which runtime runs it.

    Args:
        path: an `.onnx`, an `.xml` with its `.bin` beside it, or a `.pt2`.
        threads: number of CPU threads; `None` lets the runtime choose. PyTorch has one number for the whole process.
        precision: number type of OpenVINO's arithmetic, except for what is int8 in the file; `None`: `bf16` if the
            file says so, else `fp32`. OpenVINO's own default is bfloat16 on processors that have instructions for it.
        device: `cuda` runs an ONNX file on a GPU, where the runtime can.

    Raises:
        NotFoundError: there is no such file, or no `.bin` beside an `.xml`.
        WeightsError: the file is damaged, of another program or a newer format, or could run code.
        MissingExtraError: its runtime is not installed.
        ConfigError: the runtime does not have the device or the precision.
    """
    path = Path(path)
    kind, info = read_info(path)
    _check_settings(kind, threads, precision, device)
    try:
        if kind == "onnx":
            run = _open_onnx(path, info, threads, device)
        elif kind == "openvino":
            run = _open_openvino(path, info, threads, precision or ("bf16" if info.precision == "bf16" else "fp32"))
        else:
            run = _open_torch(path, info, threads)
    except TwinsError:
        raise
    except Exception as error:  # the runtimes have errors of their own, of any class
        raise WeightsError(
            f"{path} cannot be opened ({_reason(error)}); update the runtime, or copy or export the file again"
        ) from error
    return Session(path, info, _with_clear_errors(run, path))


def _with_clear_errors(run: Run, path: Path) -> Run:
    """Return a function that raises MemoryError or WeightsError for any error of a runtime."""

    def clear(inputs: Arrays) -> Arrays:
        """Return the outputs; raise one of the two errors."""
        try:
            return run(inputs)
        except Exception as error:  # the runtimes have errors of their own, of any class
            if re.search("alloc|memory", str(error), re.IGNORECASE):
                raise MemoryError(_reason(error)) from error
            raise WeightsError(
                f"{path} cannot be run on images of shape {inputs[IMAGES].shape} ({_reason(error)}); copy it again, or "
                "export it again"
            ) from error

    return clear


def _reason(error: Exception) -> str:
    """Return the line of an error's message that says most: of OpenVINO's, the last one behind its source lines."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:160] if lines and lines[0].startswith("Exception from ") else first_line(error)


def check_images(images: NDArray[Any], info: FileInfo) -> None:
    """Raise InputError if a file does not take a batch of images."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(f"`images` must be a uint8 array (B, H, W, C), found {_describe(images)}")
    expected = (info.batch, info.height, info.width, info.network.in_chans)
    wrong = any(side is not None and side != found for side, found in zip(expected, images.shape, strict=True))
    smallest = 1 if info.resize_in_graph else SMALLEST
    if wrong or not len(images) or min(images.shape[1:3]) < smallest:
        shape = ", ".join(name if side is None else str(side) for name, side in zip("BHWC", expected, strict=True))
        limit = f", H and W at least {smallest}" if None in expected[1:3] else ""
        raise InputError(f"the file takes images of shape ({shape}){limit}, found {images.shape}; resize or batch them")


def check_sizes(sizes: NDArray[Any] | None, images: NDArray[Any], info: FileInfo) -> NDArray[np.int64] | None:
    """Return the second input of a padded file, `None` for other files; raise InputError for wrong sizes."""
    batch, sides = len(images), np.array(images.shape[1:3])
    if sizes is None:
        return np.tile(sides, (batch, 1)) if info.padded else None
    if not info.padded:
        raise InputError("the file takes images that fill their batch, found `sizes`; export it with `padded=True`")
    if not isinstance(sizes, np.ndarray) or sizes.dtype.kind not in "iu" or sizes.shape != (batch, 2):
        raise InputError(f"`sizes` must be an integer array ({batch}, 2), found {_describe(sizes)}")
    if (sizes < 1).any() or (sizes > sides).any():
        raise InputError(f"`sizes` must be from 1 to {tuple(sides.tolist())}, found {sizes.tolist()!s:.80}")
    return np.ascontiguousarray(sizes, dtype=np.int64)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a {type(value).__name__}"


def _check_settings(kind: Format, threads: int | None, precision: str | None, device: str) -> None:
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ConfigError(f"`threads` must be a whole number from 1, found {threads!r:.80}")
    if precision not in (None, "fp32", "bf16"):
        raise ConfigError(f"`precision` must be fp32 or bf16, found {precision!r:.80}")
    if precision is not None and kind != "openvino":
        raise ConfigError(f"`precision` is a setting of OpenVINO, the file is {TITLES[kind]}; leave it out")
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"`device` must be cpu or cuda, found {device!r:.80}")
    if device == "cuda" and kind != "onnx":
        raise ConfigError(f'`device="cuda"` runs ONNX files, the file is {TITLES[kind]}; export it as ONNX')


def _check_names(path: Path, info: FileInfo, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Raise WeightsError if a graph has other inputs or outputs than the file's description says."""
    expected = ([IMAGES, SIZES] if info.padded else [IMAGES], sorted(info.outputs))
    if (sorted(inputs), sorted(outputs)) != expected:
        raise WeightsError(f"{path} has other inputs or outputs than its description says; export it again")


def _open_onnx(path: Path, info: FileInfo, threads: int | None, device: str) -> Run:
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # errors are raised, and need not be printed
    # otherwise its threads keep spinning after a call, and slow down what runs next, such as preprocessing
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise ConfigError('`device="cuda"` needs ONNX Runtime with CUDA, found one without; use onnxruntime-gpu')
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))  # TF32 would round float32 to 10 bits
    session = ort.InferenceSession(str(path), options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    _check_names(path, info, (value.name for value in session.get_inputs()), names)
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _open_openvino(path: Path, info: FileInfo, threads: int | None, precision: Literal["fp32", "bf16"]) -> Run:
    compiled = compile_openvino(openvino_core().read_model(path), threads=threads, precision=precision)
    names = [output.get_any_name() for output in compiled.outputs]
    _check_names(path, info, (value.get_any_name() for value in compiled.inputs), names)
    local = threading.local()

    def run(inputs: Arrays) -> Arrays:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        results = local.request.infer(inputs, share_inputs=True)
        return {name: results[index] for index, name in enumerate(names)}

    return run


def _open_torch(path: Path, info: FileInfo, threads: int | None) -> Run:
    import torch

    program = load_archive(path)
    spec = program.call_spec
    assert spec.out_spec is not None
    inputs = program.graph_signature.user_inputs
    _check_names(path, info, map(str, inputs), spec.out_spec.context or ())
    network = program.module(check_guards=False)  # guards are code of the file; `check_images` does their work
    if threads is not None:
        torch.set_num_threads(threads)

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            outputs = network(*(torch.from_numpy(value) for value in inputs.values()))
        return {name: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for name, v in outputs.items()}

    return run


def compile_openvino(
    model: openvino.Model,
    *,
    hint: Hint = "latency",
    threads: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> openvino.CompiledModel:
    """Compile a model for this processor.

    Args:
        model: a model of `convert_openvino` or `quantize`.
        hint: `latency` runs one request on all threads; `throughput` runs several at the same time.
        threads: number of CPU threads; `None` lets OpenVINO choose.
        precision: type of all operations that are not int8. OpenVINO's own default is bfloat16 where the processor has
            instructions for it.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    settings: dict[str, str | int] = {
        "PERFORMANCE_HINT": hint.upper(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return openvino_core().compile_model(model, "CPU", settings)


def openvino_core() -> openvino.Core:
    """Return OpenVINO's runtime, which is opened once and stays open.

    On processors with AVX-512, OpenVINO 2026.4 gives the process another stack for its signal handlers when a runtime
    is opened, and frees it when that runtime is closed. If two are closed in the order in which they were opened, the
    process keeps the freed stack, and the next signal ends it: the end of a process that loads data is enough.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    runtime = require("openvino")
    with _core_lock:
        return _opened_core(runtime)


_core_lock = threading.Lock()
"""So that two threads do not open two runtimes."""


@cache
def _opened_core(openvino: ModuleType) -> openvino.Core:
    return openvino.Core()
