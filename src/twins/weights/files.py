"""Weight files, read without running what they hold, and written in one atomic step."""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twins.data.config import EMBEDDED
from twins.errors import ConfigError, NotFoundError, TrainingError, WeightsError
from twins.weights.info import ModelInfo

INFO_KEY = "twins"
"""Key of the network's description in a `.safetensors` file's metadata."""
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_CONTAINERS = ("model", "state_dict", "model_state_dict", "network", "module", "net")
"""Where training codes put the weights inside their checkpoints, the most telling first."""
_ALLOWED: list[Any] = [
    argparse.Namespace,  # the reference saves its arguments
    collections.defaultdict,
    dict,
    np.ndarray,
    np.dtype,
    multiarray.scalar,  # mm toolboxes save scores
    multiarray._reconstruct,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "b1")),
]
"""Harmless types beyond tensors that published checkpoints hold."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a weight file holds."""

    path: Path
    """Where it was read."""
    tensors: dict[str, Tensor]
    """Names to tensors, on the CPU, as they stand in the file."""
    info: ModelInfo | None
    """The description that our own files carry."""


def read_tensors(path: str | Path) -> Checkpoint:
    """Read a `.safetensors`, `.pth`, `.pt` or `.bin` file; nothing that it holds is run.

    Raises:
        NotFoundError: there is no such file.
        WeightsError: the file is damaged, holds no tensors, or would run code.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"there is no weight file {path}; check the path")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name the weight file in it")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes); copy or download it again")
    info: ModelInfo | None = None
    if _is_safetensors(path):
        tensors, info = _read_safetensors(path)
    else:
        tensors = _find_tensors(_read_pickled(path), path)
    return Checkpoint(path=path, tensors=_strip(tensors), info=info)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], info: ModelInfo | None = None) -> None:
    """Write tensors beside `path`, sync, and switch in one step; the ending chooses the format.

    Raises:
        WeightsError: an ending that is not known, or a folder that does not exist.
        TrainingError: the disk is full or refuses; what stood at `path` is untouched.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *PICKLED):
        endings = ", ".join((".safetensors", *PICKLED))
        raise WeightsError(f"weights are written as {endings}, found {path.name!r}; choose one of these endings")
    plain = _plain(tensors)
    with atomic_file(path) as beside:
        if path.suffix == ".safetensors":
            save_file(plain, beside, {INFO_KEY: info.to_json()} if info else {})
        else:
            torch.save(plain, beside)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well the file is synced and takes `path`'s place.

    Raises:
        WeightsError: the folder does not exist.
        TrainingError: the disk is full or refuses; what stood at `path` is untouched.
    """
    if not path.parent.is_dir():
        raise WeightsError(f"there is no folder {path.parent} to write {path.name} in; make it first")
    beside: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        beside = Path(name)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"{path} could not be written ({first_line(error)}); free space or choose another folder, "
            "what stood there before is untouched"
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def check_outputs(
    outputs: Mapping[str, str | Path | None],
    inputs: Iterable[tuple[str, str | Path]] = (),
    *,
    data: str | Path | None = None,
) -> None:
    """Check the files that a command is to write, before it computes anything.

    Args:
        outputs: flags such as `--json` with their files; `None` is not asked for.
        inputs: what is read or is another result's place, each after what to call it.
        data: folder of a data set; what lies in it and was not written by `evaluate` is read too.

    Raises:
        ConfigError: a file that would take the place of what is read, of another output, or of a file that holds no
            text, such as the first image of a pattern; or that cannot be made.
    """
    known = {role: path for role, path in outputs.items() if path is not None}
    taken = {_identity(path): what for what, path in inputs} if known else {}
    for role, path in known.items():
        _check_output(role, Path(path) if path else None)
        if (what := taken.get(identity := _identity(path))) is not None:
            raise ConfigError(f"{role} {path} is {what}, which would be lost; name another file")
        if data is not None and str(data) not in EMBEDDED and _is_data(Path(path), Path(data)):
            raise ConfigError(f"{role} {path} is a file of --data {data}, which would be lost; name another file")
        taken[identity] = f"what {role} names"


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _check_output(role: str, path: Path | None) -> None:
    """Raise ConfigError for a file that holds no text, or cannot be made."""
    if path is None:
        raise ConfigError(f"{role} names no file; give one, or leave it out")
    if os.path.isdir(path):
        raise ConfigError(f"{role} {path} is a folder; name a file in it")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"{role} {path}: there is no folder {path.parent} to write it in; make it first")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{role} {path} is no ordinary file; name another")
    try:
        if os.path.exists(path) and b"\0" in _start(path):
            raise ConfigError(
                f"{role} {path} is an image or another file that holds no text, which would be lost; "
                f"give the name of the file to write right after {role}"
            )
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):  # as atomic_file will
            pass
    except OSError as error:
        raise ConfigError(f"{role} {path} cannot be written ({error.strerror}); choose another place") from error


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _is_data(path: Path, data: Path) -> bool:
    """Whether a file lies in a data folder already; a result of ours, which begins by its format, is no data."""
    inside = os.path.isfile(path) and path.resolve().is_relative_to(data.resolve())
    return inside and re.match(rb'\s*\{\s*"format"', _start(path)) is None


def _identity(path: str | Path) -> object:
    """Return what is the same of two paths to one file, whether it exists or not."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _is_safetensors(path: Path) -> bool:
    """Judge by content: eight bytes of a header's length, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelInfo | None]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged or cut short ({first_line(error)}); copy or download it again"
        ) from error
    return tensors, ModelInfo.from_json(metadata[INFO_KEY]) if INFO_KEY in metadata else None


def _read_pickled(path: Path) -> Any:
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: a file that cannot be read says so itself
            return torch.load(file, map_location="cpu", weights_only=True)  # a path's ending would mislead torch
    except pickle.UnpicklingError as error:
        if culprit := _culprit(error):
            raise WeightsError(
                f"{path} holds more than tensors and could run code when read, so it was not read "
                f"({culprit}); ask for it as .safetensors, or save its plain state dict where you trust it"
            ) from error
        raise WeightsError(f"{path} is no weight file, or damaged; copy or download it again") from error
    except Exception as error:  # the parsers raise whatever damaged bytes lead them to
        raise WeightsError(
            f"{path} is damaged or cut short ({first_line(error)}); copy or download it again"
        ) from error


def _culprit(error: Exception) -> str:
    """Return what torch's restricted unpickler refused to call or build, or nothing when it could not parse."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it names {found[1]}"
    return "it calls or builds an unknown object" if re.search("call reduce|Can only (create|build)", text) else ""


def _find_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Unwrap a training checkpoint down to its names and tensors; the optimiser and the rest are left behind."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no named tensors, found {type(content).__name__}; is it a weight file?")
    return tensors


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop what wrappers put before every name."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(key.startswith(prefix) for key in tensors):
            return _strip({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, each with memory of its own: shared memory is refused, or written too large."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        alone = value.detach().cpu().contiguous()
        storage = alone.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != alone.nbytes:
            alone = alone.clone()
        seen.add(alone.untyped_storage().data_ptr())
        plain[key] = alone
    return plain
