"""Reading weight files without running code in them, and writing them in one atomic step."""

from __future__ import annotations

import argparse
import collections
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twins.errors import NotFoundError, WeightsError
from twins.files import atomic_file, first_line
from twins.weights.dialects import State, detect, to_twins
from twins.weights.info import ModelInfo

INFO_KEY = "twins"
"""Key of the `ModelInfo` in the metadata of a `.safetensors` file."""
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_WEIGHT_KEYS = ("model", "state_dict", "model_state_dict", "network", "module", "net")
"""Keys of the weights in checkpoints of training codes, the most specific first."""
_ALLOWED_TYPES: list[Any] = [
    argparse.Namespace,  # the reference saves its arguments
    collections.defaultdict,
    dict,
    np.ndarray,
    np.dtype,
    multiarray.scalar,  # mm toolboxes save scores
    multiarray._reconstruct,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "b1")),
]
"""Harmless types that published checkpoints contain besides tensors."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a weight file. `dialect` and `state` raise WeightsError if it holds no Twins network."""

    path: Path
    """Path of the file."""
    tensors: State
    """Tensors by the file's names, on the CPU."""
    info: ModelInfo | None
    """Description of the network, in files of the `twins` layout."""

    @cached_property
    def dialect(self) -> str:
        """Layout of the file, see `DIALECTS`."""
        return detect(self.tensors, self.path)

    @cached_property
    def state(self) -> State:
        """Tensors by their names in our layout; converted once."""
        return to_twins(self.tensors, self.dialect)


def read_tensors(path: str | Path) -> Checkpoint:
    """Read a `.safetensors`, `.pth`, `.pt` or `.bin` file without running code in it.

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
    return Checkpoint(path=path, tensors=_strip_prefixes(tensors), info=info)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], info: ModelInfo | None = None) -> None:
    """Write tensors to `path` in one atomic step; the ending chooses the format.

    Raises:
        WeightsError: the ending is unknown.
        ConfigError: the folder does not exist.
        TrainingError: the disk is full or not writable; an existing file is untouched.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *PICKLED):
        endings = ", ".join((".safetensors", *PICKLED))
        raise WeightsError(f"weights are written as {endings}, found {path.name!r}; choose one of these endings")
    separate = _to_separate_cpu_memory(tensors)
    with atomic_file(path) as temporary:
        if path.suffix == ".safetensors":
            _save(separate, temporary, info)
        else:
            torch.save(separate, temporary)


def _save(tensors: dict[str, Tensor], path: Path, info: ModelInfo | None) -> None:
    try:
        save_file(tensors, path, {INFO_KEY: info.to_json()} if info else {})
    except SafetensorError as error:  # raised when the disk is full
        raise OSError(str(error)) from error


def _is_safetensors(path: Path) -> bool:
    """Return whether the content is safetensors: eight bytes with the length of a header, then JSON."""
    with path.open("rb") as file:
        header = file.read(9)
    return len(header) == 9 and header[8:] == b"{" and int.from_bytes(header[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelInfo | None]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged or cut short ({first_line(error)}); copy or download it again"
        ) from error
    try:
        return tensors, ModelInfo.from_json(metadata[INFO_KEY]) if INFO_KEY in metadata else None
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _read_pickled(path: Path) -> Any:
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(_ALLOWED_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a file that cannot be read raises
            return torch.load(file, map_location="cpu", weights_only=True)  # given a path, torch would trust its ending
    except pickle.UnpicklingError as error:
        if culprit := _refused_global(error):
            raise WeightsError(
                f"{path} holds more than tensors and could run code when read, so it was not read "
                f"({culprit}); ask for it as .safetensors, or save its plain state dict where you trust it"
            ) from error
        raise WeightsError(f"{path} is no weight file, or damaged; copy or download it again") from error
    except Exception as error:  # damaged bytes make the parsers raise errors of any class
        raise WeightsError(
            f"{path} is damaged or cut short ({first_line(error)}); copy or download it again"
        ) from error


def _refused_global(error: Exception) -> str:
    """Return what torch's restricted unpickler refused to load, or an empty text if the file could not be parsed."""
    message = str(error)
    if match := re.search(r"GLOBAL ([\w.]+)", message):
        return f"it names {match[1]}"
    return "it calls or builds an unknown object" if re.search("call reduce|Can only (create|build)", message) else ""


def _find_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors inside a training checkpoint, without optimiser and other content."""
    tensors = {}
    if isinstance(content, Mapping):
        for _ in range(3):
            content = next((content[key] for key in _WEIGHT_KEYS if isinstance(content.get(key), Mapping)), content)
        tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no named tensors, found {type(content).__name__}; is it a weight file?")
    return tensors


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that wrappers put before all names."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(key.startswith(prefix) for key in tensors):
            return _strip_prefixes({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors


def _to_separate_cpu_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to separate CPU memory: safetensors refuses shared memory, and pickle writes the whole storage."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in tensors.items():
        copied = value.detach().cpu().contiguous()
        storage = copied.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != copied.nbytes:
            copied = copied.clone()
        storages.add(copied.untyped_storage().data_ptr())
        separate[key] = copied
    return separate
