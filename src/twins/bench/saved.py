"""A trained network and exported files side by side: from the same pixels to decoded outputs, or from image files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch

from twins.bench.config import BenchConfig, shape_of
from twins.bench.files import end_to_end_step, pixels_at
from twins.bench.memory import memory_limit, peak_in_process
from twins.bench.networks import DTYPES, Case, Step
from twins.bench.timing import interleaved, ratio, speed
from twins.engine.memory import free_memory, is_out_of_memory_message, peak_of
from twins.errors import ConfigError
from twins.exported import ExportedNetwork
from twins.exporting.comparison import Arrays, bounds_of, compare
from twins.exporting.formats import TITLES, is_exported_file, read_info
from twins.exporting.metadata import FileInfo
from twins.exporting.sessions import Session, open_session
from twins.factory import model_from_checkpoint
from twins.predictor import inference_form
from twins.run_folder import weights_of
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import TASKS, Row, facts_of, register
from twins.verification import Comparison, native_session
from twins.weights.store import resolve

CPU = torch.device("cpu")
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Packages that run files of these formats; PyTorch runs everything else."""
Line = dict[str, Any]
"""A row of the result, JSON-ready."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a comparison: a trained network in one form, or an exported file."""

    source: str
    """Run folder, checkpoint or published name; or the file."""
    form: str
    """Form of the network, see `BenchConfig.forms`; or the format of the file."""
    info: FileInfo
    """Description of the file; of a network, that of a file with open sides that returns the same."""

    @property
    def label(self) -> str:
        """A name that no other entry has."""
        return f"{self.source}, {self.form}"

    @property
    def is_file(self) -> bool:
        """Whether it is an exported file."""
        return self.form in TITLES

    @property
    def predicts(self) -> bool:
        """Whether `Predictor` runs it: it makes the inference form of a network itself."""
        return self.is_file or "fused" in self.form

    @property
    def runtime(self) -> str:
        """What runs it, with its version."""
        package = RUNTIMES.get(self.form, "torch")
        return f"{package} {version(package)}"

    def takes(self, size: int | str) -> bool:
        """Return whether it takes images of a size."""
        sides = zip((self.info.height, self.info.width), shape_of(size), strict=True)
        return all(fixed in (None, side) for fixed, side in sides)


def read_entries(models: Sequence[str], forms: Sequence[str]) -> list[Entry]:
    """Return what is measured: the forms of the network, if one is named, then the files.

    Raises:
        ConfigError: there are several networks, or files of another task or of other inputs or outputs.
        NotFoundError, WeightsError: a network or a file cannot be read.
    """
    read = {model: read_info(model) for model in dict.fromkeys(models) if is_exported_file(model)}
    networks = [model for model in dict.fromkeys(models) if model not in read]
    files = [Entry(source=model, form=kind, info=info) for model, (kind, info) in read.items()]
    if len(networks) > 1:
        raise ConfigError(
            f"one trained network is measured beside its exported files, found {' and '.join(networks)}; measure them "
            "in turn, or all six by name"
        )
    entries = [*_forms_of(networks[0], forms, files), *files] if networks else files
    for entry in entries[1:]:
        _check_alike(entries[0], entry)
    return entries


def _forms_of(source: str, forms: Sequence[str], files: Sequence[Entry]) -> list[Entry]:
    """Return a network in its forms, with the outputs and the selection of objects of the first file."""
    info = FileInfo(network=load_network(source).info, batch=None, height=None, width=None, outputs=("decoded",))
    if files:
        like = files[0].info
        info = replace(info, outputs=like.outputs, features=like.features, selection=like.selection)
    return [Entry(source=source, form=form, info=info) for form in forms]


def _check_alike(first: Entry, other: Entry) -> None:
    """Raise ConfigError if two entries do not compute the same kind of output from the same kind of image."""
    one, two = (
        {
            "task": "features" if entry.info.features else entry.info.network.task,
            "channels": entry.info.network.in_chans,
        }
        for entry in (first, other)
    )
    for name, value in one.items():
        if two[name] != value:
            raise ConfigError(
                f"{other.source} has the {name} {two[name]}, {first.source} has {value}; measure them in turn"
            )


def load_network(source: str) -> TaskNetwork:
    """Return the network of a run folder, a checkpoint or a published name, as `twins export` reads it."""
    return model_from_checkpoint(resolve(weights_of(source))).eval()


def cases_of(config: BenchConfig, entries: Sequence[Entry]) -> list[Case]:
    """Return the combinations of mode, precision, batch and size.

    Raises:
        ConfigError: there are no predictions in a mode, or no file takes images of a size.
    """
    first = entries[0].info
    fixed = sorted({entry.info.batch for entry in entries if entry.info.batch})
    cases = [
        Case(
            task=first.network.task,
            head=first.network.head,
            model=first.network.model,
            mode=mode,
            precision=precision,
            batch=batch,
            size=int(size) if size.isdecimal() else size,
        )
        for mode, precision, batch, size in product(
            config.measured_modes, config.precision, config.batch or fixed or (1,), config.size or _own_sizes(entries)
        )
    ]
    for case in cases:
        _check_case(case, entries)
    return cases


def _own_sizes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the sizes that files fix, or else the size of the network's preprocessing."""
    network = entries[0].info.network
    size, longest = network.preprocess.size, network.preprocess.longest
    oblong = network.preprocess.fit == "keep" and "x" in facts_of(network.task).bench_size
    own = (size, longest if oblong else size)
    fixed = [
        (info.height or own[0], info.width or own[1])
        for info in (entry.info for entry in entries)
        if info.height or info.width
    ]
    return tuple(dict.fromkeys(f"{h}x{w}" if h != w else str(h) for h, w in fixed or [own]))


def _check_case(case: Case, entries: Sequence[Entry]) -> None:
    files = [entry for entry in entries if entry.is_file]
    if files and not any(entry.takes(case.size) for entry in files):
        raise ConfigError(
            f'no file takes images of `size=("{case.size}",)`; leave `size` out to use those of the files'
        )
    if case.mode == "inference":
        return
    if entries[0].info.features:
        raise ConfigError(f'{files[0].source} holds maps, not predictions; it is measured with `modes=("inference",)`')
    if facts_of(case.task).one_shape and len(set(shape_of(case.size))) > 1:
        raise ConfigError(
            f'classifiers see squares of an image file, so `modes=("{case.mode}",)` takes no `size=("{case.size}",)`'
        )


class Started(NamedTuple):
    """An entry after its first call."""

    line: Line
    """Its row, without times."""
    step: Step | None
    """What is timed; `None` if it cannot be measured."""
    outputs: Any
    """What the first call returned."""


def measure_saved(case: Case, entries: Sequence[Entry], config: BenchConfig, files: Sequence[Path]) -> list[Line]:
    """Return a row for each entry, all measured in turn; one that cannot be measured has `failed` with the reason.

    Ratios and differences of outputs refer to the first entry that was measured.
    """
    used = [entry for entry in entries if case.mode == "inference" or entry.predicts]
    started = {entry.label: _start(entry, case, files, config.threads) for entry in used}
    steps = {label: start.step for label, start in started.items() if start.step is not None}
    times = interleaved(steps, config.rounds, config.warmup, CPU)
    lines = {label: start.line for label, start in started.items()}
    seconds = {label: [value / lines[label]["batch"] for value in values] for label, values in times.items()}
    for entry in used:
        if entry.label in steps:
            lines[entry.label] |= _numbers(entry.label, lines[entry.label]["batch"], times, seconds)
            if case.mode == "inference" and case.precision == "fp32" and entry is not used[0]:
                outputs = started[next(iter(steps))].outputs
                lines[entry.label]["outputs"] = _comparison(entry.info, outputs, started[entry.label].outputs)
    started.clear()
    steps.clear()
    for label in times if config.memory else ():
        request = [config.models, config.forms, label, vars(case), list(map(str, files)), config.threads]
        peak = peak_in_process("twins.bench.saved", [*request, TASKS.get(case.task)], label)
        lines[label] |= {} if peak is None else {"peak_mib": peak}
    return list(lines.values())


def _start(entry: Entry, case: Case, files: Sequence[Path], threads: int | None) -> Started:
    """Open an entry and call it once; a failure for lack of memory is noted in its row."""
    line = _describe(entry, case)
    if not entry.takes(case.size):
        sides = (str(side or "any") for side in (entry.info.height, entry.info.width))
        return Started(line | {"failed": f"takes {' x '.join(sides)} pixels"}, None, None)
    try:
        with memory_limit(CPU):
            step = step_of(entry, case, files, threads)
            start = perf_counter()
            outputs = step()
    except Exception as error:  # runtimes have classes of their own
        if not is_out_of_memory_message(f"{type(error).__name__}: {error}"):
            raise
    else:
        return Started(line | {"first_s": perf_counter() - start}, step, outputs)
    free_memory()
    return Started(line | {"failed": "out of memory"}, None, None)


def step_of(entry: Entry, case: Case, files: Sequence[Path], threads: int | None) -> Step:
    """Return what is timed: pixels to decoded outputs, or in the mode `end-to-end` image files to predictions.

    A file of a fixed batch gets as many images as it takes.
    """
    case = replace(case, batch=entry.info.batch or case.batch)
    if case.mode == "end-to-end":
        predicting = ExportedNetwork(_open(entry, threads)) if entry.is_file else _network(entry, case)
        return end_to_end_step(predicting, case, files, CPU, compile="compiled" in entry.form)
    session = _open(entry, threads) if entry.is_file else native_session(_in_form(entry, case), entry.info)
    pixels = pixels_at(case.size, files, batch=case.batch, channels=entry.info.network.in_chans)
    return partial(session.run, pixels.permute(0, 2, 3, 1).contiguous().numpy())


def _open(entry: Entry, threads: int | None) -> Session:
    """Open a file with as many threads as PyTorch has."""
    return open_session(entry.source, threads=threads or torch.get_num_threads())


def _network(entry: Entry, case: Case) -> TaskNetwork:
    """Return a trained network that selects objects as the files do."""
    network = load_network(entry.source).to(DTYPES[case.precision])
    if entry.info.selection is not None:
        network.selection = entry.info.selection
    return network


def _in_form(entry: Entry, case: Case) -> TaskNetwork:
    """Return a trained network in the form of its entry."""
    network = _network(entry, case)
    if "fused" in entry.form:
        return inference_form(network, compile="compiled" in entry.form)
    if entry.form == "compiled":
        (network if network.one_graph else network.backbone).compile(dynamic=False)
    return network


def _describe(entry: Entry, case: Case) -> Line:
    """Return the settings of a row, and what is known of a network or a file without running it."""
    info = entry.info
    path = Path(entry.source) if entry.is_file else resolve(weights_of(entry.source))
    parts = [path, path.with_suffix(".bin")] if entry.form == "openvino" else [path]
    metric = _metric(path, info) if entry.is_file else None
    return vars(case) | {
        "model": info.network.model,
        "source": entry.source,
        "form": entry.form,
        "precision": info.precision if entry.is_file else case.precision,
        "batch": info.batch or case.batch,
        "dynamic": list(info.dynamic) if entry.is_file else None,
        "runtime": entry.runtime,
        "file_bytes": sum(part.stat().st_size for part in parts),
        **({} if metric is None else {"metric": metric}),
    }


def _metric(path: Path, info: FileInfo) -> dict[str, Any] | None:
    """Return the metric in the sheet beside a file, if the sheet is of the same weights."""
    try:
        sheet = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if (sheet["weights_sha256"], sheet["precision"]) != (info.weights_sha256, info.precision):
            return None
        return {"name": str(sheet["metric"]["name"]), "data": str(sheet["metric"]["data"])} | {
            key: float(sheet["metric"][key]) for key in ("file", "network")
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _numbers(
    label: str, batch: int, times: Mapping[str, Sequence[float]], seconds: Mapping[str, Sequence[float]]
) -> Line:
    """Return the speed of an entry from the seconds of its calls and those of an image, and its ratio to the first."""
    ordered = sorted(1e3 * value for value in seconds[label])
    per_image = {
        "median": median(ordered),
        "low": ordered[len(ordered) // 4],
        "high": ordered[3 * len(ordered) // 4],
    }
    first = next(iter(seconds.values()))
    return speed(times[label], batch) | {"ms_per_image": per_image, "ratio": ratio(first, seconds[label])}


def _comparison(info: FileInfo, expected: Arrays, actual: Arrays) -> dict[str, Any]:
    """Return the differences of outputs from those of the first entry, with `failure` if they exceed their bound."""
    images = min(len(next(iter(outputs.values()))) for outputs in (expected, actual))
    one, two = ({name: values[:images] for name, values in outputs.items()} for outputs in (expected, actual))
    comparison = Comparison()
    selection = info.selection or SelectionConfig()
    comparison.add(compare(one, two, bounds_of(info), selection=selection), "these images")
    return {name: getattr(comparison, name) for name in ("differences", "agreement", "failure")}


def _measure_peak(request: str) -> float:
    """Return the peak memory in MiB of two steps of an entry; runs in a process of its own."""
    models, forms, label, settings, files, threads, task_row = json.loads(request)
    if task_row:
        register(Row(*task_row))
    if threads:
        torch.set_num_threads(threads)
    case = Case(**settings)
    (entry,) = (entry for entry in read_entries(models, forms) if entry.label == label)
    step = step_of(entry, case, [Path(file) for file in files], threads)
    if not entry.is_file and entry.form != "eager":
        step()  # so that memory for compiling or for packing weights is not counted
    return peak_of(step, CPU)


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1]))
