"""Inspection of `.pt2` archives before PyTorch loads them, so that no file can run code.

`torch.export.load` unpickles entries of the archive, evaluates expressions of the program in it, imports modules that
it names, opens compiled libraries, and reads older archives another way. What `torch.export.save` writes for an
exported network of ours needs none of this, and an archive with anything else is refused; `program.py` inspects the
program itself.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from twins.errors import WeightsError
from twins.exporting.extra import quiet
from twins.exporting.metadata import KEY
from twins.exporting.program import Unsafe, check_program, check_values
from twins.files import first_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/(?:version|serialization_id)|models/model\.json"
    r"|data/weights/(?:model_weights_config\.json|weight_\d+)"
    r"|data/constants/(?:model_constants_config\.json|tensor_\d+)"
    r"|data/sample_inputs/model\.pt|extra/[\w-][\w.-]*"
)
"""Entries that `torch.export.save` writes for a network, below the archive's own folder."""
_LISTS = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
"""Entries that may be compressed: the list of operators, and those of tensors."""
_LARGEST_LIST = 2**28
"""Most bytes of a list when it is unpacked."""
_OLD = "serialized_exported_program.json"


def read_extra(path: Path) -> str | None:
    """Return the text under the key `twins` among the extra files of a `.pt2`, or `None` without one.

    Raises:
        WeightsError: the archive holds what no exported network needs.
        zipfile.BadZipFile: it is damaged or cut short.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entry = _entries(archive, path).get(f"extra/{KEY}")
        return None if entry is None else archive.read(entry).decode()


def load_archive(path: Path) -> ExportedProgram:
    """Load a `.pt2` after its inspection.

    Raises:
        WeightsError: it could run code, or is damaged.
    """
    import torch
    import torchvision

    assert torchvision  # its operators are in the programs of detectors

    with path.open("rb") as file:  # one handle, so that the file that is loaded is the one that was inspected
        _inspect(file, path)
        file.seek(0)
        try:
            with quiet("torch._export.serde.serialize"):  # it names symbols of sizes that no tensor has
                return torch.export.load(file)
        except Exception as error:  # damaged programs make the loader raise errors of any class
            raise WeightsError(
                f"{path} cannot be loaded by PyTorch {torch.__version__} ({first_line(error)}); "
                "export it again with this version, or as ONNX"
            ) from error


def _inspect(file: BinaryIO, path: Path) -> None:
    """Raise WeightsError if a `.pt2` holds anything that could run code."""
    from torch.export.pt2_archive import PT2ArchiveReader

    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {name: entry.file_size for name, entry in _entries(archive, path).items()}
        file.seek(0)
        reader = PT2ArchiveReader(file)  # the parser of the loader reads what is inspected
        if sorted(reader.get_file_names()) != sorted(sizes):
            raise Unsafe("its list of entries is ambiguous")
        for kind in ("weights", "constants"):
            config = json.loads(reader.read_bytes(f"data/{kind}/model_{kind}_config.json"))
            _check_tensors(config, sizes, kind)
        _check_pickle(reader.read_bytes("data/sample_inputs/model.pt"))
        check_program(json.loads(reader.read_bytes("models/model.json")))
    except Unsafe as error:
        raise _refusal(path, error) from error
    except WeightsError:
        raise
    except Exception as error:  # the parsers raise errors of any class
        raise WeightsError(
            f"{path} is damaged or cut short ({first_line(error)}); copy it again, or export it again"
        ) from error


def _refusal(path: Path, reason: Unsafe) -> WeightsError:
    return WeightsError(
        f"{path} could run code when it is loaded, so it was not loaded ({reason}); "
        "ask for an ONNX file, or export it from weights that you trust"
    )


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of an archive by their names below its folder.

    Raises:
        WeightsError: there are others than those of an exported network, or their sizes or names are false.
    """
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if _OLD in {name.rpartition("/")[2] for name in names}:
        raise _refusal(path, Unsafe("it has the format of PyTorch before 2.8, whose tensors are pickled"))
    folder = names[0].partition("/")[0] if names else ""
    entries = {name.removeprefix(f"{folder}/"): info for name, info in zip(names, infos, strict=True)}
    try:
        for name, info in entries.items():
            if info.filename != f"{folder}/{name}" or not _ENTRIES.fullmatch(name):
                raise Unsafe(f"it holds {info.filename!r:.80}, which no exported network needs")
            if name in _LISTS and info.compress_type == zipfile.ZIP_DEFLATED:
                if info.file_size > _LARGEST_LIST:
                    raise WeightsError(
                        f"{path} would fill the memory: its entry {name} has {info.file_size} bytes when it is "
                        "unpacked; copy it again, or export it again"
                    )
            elif info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise Unsafe(f"its entry {name} is compressed")
        if len(entries) != len(infos) or sum(info.compress_size for info in infos) > path.stat().st_size:
            raise Unsafe("two of its entries share a name or their bytes")
        if archive.read(entries["archive_format"]) != b"pt2":
            raise zipfile.BadZipFile("its archive_format is not pt2")
    except Unsafe as error:
        raise _refusal(path, error) from error
    except KeyError as error:
        raise zipfile.BadZipFile("it has no archive_format") from error
    return entries


def _check_tensors(config: dict[str, Any], sizes: dict[str, int], kind: str) -> None:
    """Check the list of an archive's weights or constants: each is the plain bytes of a tensor."""
    check_values(config)
    prefix = "weight" if kind == "weights" else "tensor"
    for name, payload in config["config"].items():
        if payload["use_pickle"] is not False or not re.fullmatch(rf"{prefix}_\d+", payload["path_name"]):
            raise Unsafe(f"its tensor {name} is pickled")
        shape = [size["as_int"] for size in payload["tensor_meta"]["sizes"]]
        if sizes[f"data/{kind}/{payload['path_name']}"] == 0 and math.prod(shape):
            raise ValueError(f"the tensor {name} is empty")


def _check_pickle(content: bytes) -> None:
    """Check the example inputs, which are pickled: PyTorch's restricted unpickler must accept them."""
    import torch

    if not content:
        return
    try:
        torch.load(BytesIO(content), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise Unsafe("its example inputs are more than tensors") from error
