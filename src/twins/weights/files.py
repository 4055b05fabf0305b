"""Weight files, read without running what they hold, and written in one atomic step."""

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
    """What a weight file holds. Reading `dialect` or `state` raises WeightsError where that is no Twins network."""

    path: Path
    """Where it was read."""
    tensors: State
    """Names to tensors, on the CPU, as the file has them."""
    info: ModelInfo | None
    """The description that our own files carry."""

    @cached_property
    def dialect(self) -> str:
        """Name of the layout, see `DIALECTS`."""
        return detect(self.tensors, self.path)

    @cached_property
    def state(self) -> State:
        """The tensors by their names in our layout, renamed once."""
        return to_twins(self.tensors, self.dialect)


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
        WeightsError: an ending that is not known.
        ConfigError: the folder does not exist.
        TrainingError: the disk is full or refuses; what stood at `path` is untouched.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *PICKLED):
        endings = ", ".join((".safetensors", *PICKLED))
        raise WeightsError(f"weights are written as {endings}, found {path.name!r}; choose one of these endings")
    plain = _plain(tensors)
    with atomic_file(path) as beside:
        if path.suffix == ".safetensors":
            _save(plain, beside, info)
        else:
            torch.save(plain, beside)


def _save(tensors: dict[str, Tensor], path: Path, info: ModelInfo | None) -> None:
    try:
        save_file(tensors, path, {INFO_KEY: info.to_json()} if info else {})
    except SafetensorError as error:  # what a full disk raises here
        raise OSError(str(error)) from error


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
    try:
        return tensors, ModelInfo.from_json(metadata[INFO_KEY]) if INFO_KEY in metadata else None
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


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
    tensors = {}
    if isinstance(content, Mapping):
        for _ in range(3):
            content = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
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
