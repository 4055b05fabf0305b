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
from twins.weights.networks import Network, choose_network

INFO_KEY = "twins"
"""Key of the `ModelInfo` in the metadata of a `.safetensors` file."""
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_EXPORTED = (".onnx", ".xml", ".pt2")
"""Endings of exported files, whose weights are part of a graph."""


class _StandIn(dict[Any, Any]):
    """Stands for an object of another package that nobody reads; it keeps nothing of it but dict entries."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Ignore the object's state."""


_STAND_INS = (
    "mmengine.logging.history_buffer.HistoryBuffer",  # mmengine's message hub
    "mmengine.config.config.Config",
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict",
    "addict.addict.Dict",
    "detectron2.config.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "yacs.config.CfgNode",
    "easydict.EasyDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
    "types.SimpleNamespace",
    *(f"pathlib.{local}{kind}" for local in ("", "_local.") for kind in ("PosixPath", "WindowsPath", "PurePosixPath")),
)
"""Types whose objects checkpoints contain beside the weights; `_StandIn` is built in their place."""
_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "U1", "S1")
"""NumPy's numbers and texts."""
_ALLOWED_TYPES: list[Any] = [
    argparse.Namespace,  # the reference saves its arguments
    collections.defaultdict,
    dict,
    list,
    np.ndarray,
    np.dtype,
    multiarray.scalar,  # mm toolboxes save scores
    multiarray._reconstruct,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),  # numpy before 2.0
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    *(type(np.dtype(kind)) for kind in _KINDS),
    *((_StandIn, name) for name in _STAND_INS),
]
"""Harmless types that checkpoints contain besides tensors."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a weight file. `dialect` and `state` raise WeightsError if it holds no Twins network."""

    path: Path
    """Path of the file."""
    info: ModelInfo | None
    """Description of the network, in files of the `twins` layout."""
    network: Network
    """Which of the file's networks this is, and what stands beside it."""

    @property
    def tensors(self) -> State:
        """Tensors by the file's names, on the CPU."""
        return self.network.tensors

    @cached_property
    def dialect(self) -> str:
        """Layout of the file, see `DIALECTS`."""
        return detect(self.tensors, self.path)

    @cached_property
    def state(self) -> State:
        """Tensors by their names in our layout; converted once."""
        return to_twins(self.tensors, self.dialect)


def read_tensors(path: str | Path, *, key: str | None = None) -> Checkpoint:
    """Read a `.safetensors`, `.pth`, `.pt` or `.bin` file without running code in it.

    Args:
        path: the file.
        key: where the network stands in the file, such as `teacher`; `None`: the network that evaluation should use.

    Raises:
        NotFoundError: there is no such file.
        WeightsError: the file is damaged, holds no tensors or none under `key`, would run code, or holds several
            networks, none of which is the usual one.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"there is no weight file {path}; check the path")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name the weight file in it")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes); copy or download it again")
    content, info = _read_safetensors(path) if _is_safetensors(path) else (_read_pickled(path), None)
    if info is not None and key is None:
        return Checkpoint(path=path, info=info, network=Network(tensors=content))
    return Checkpoint(path=path, info=info, network=choose_network(content, path, key))


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
        raise _no_weights(path) or WeightsError(
            f"{path} is no weight file, or damaged; copy or download it again"
        ) from error
    except Exception as error:  # damaged bytes make the parsers raise errors of any class
        raise _no_weights(path) or WeightsError(
            f"{path} is damaged or cut short ({first_line(error)}); copy or download it again"
        ) from error


def _no_weights(path: Path) -> WeightsError | None:
    """Return the error for a file that could not be read and has the name of an exported file or of a part of one."""
    if path.suffix.lower() in _EXPORTED:
        return WeightsError(
            f"{path} has the ending of an exported file, whose weights cannot be taken out again; name the run or the "
            "weight file that it was made of"
        )
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        return WeightsError(f"{path} holds the weights of the exported file {path.with_suffix('.xml').name}; name that")
    return None


def _refused_global(error: Exception) -> str:
    """Return what torch's restricted unpickler refused to load, or an empty text if the file could not be parsed."""
    message = str(error)
    if match := re.search(r"GLOBAL ([\w.]+)", message):
        return f"it names {match[1]}"
    return "it calls or builds an unknown object" if re.search("call reduce|Can only (create|build)", message) else ""


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
