"""Exported files as files: their format by content, their description, and the error of a file that is none.

Nothing here imports torch or a runtime. `sessions.py` opens a file to run it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal
from xml.etree import ElementTree
from zipfile import BadZipFile

from twins.errors import NotFoundError, WeightsError
from twins.exporting.archive import read_extra
from twins.exporting.metadata import KEY, FileInfo
from twins.files import first_line, is_invalid_path

Format = Literal["onnx", "openvino", "torch"]
ENDINGS: dict[str, Format] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
TITLES: dict[Format, str] = {"onnx": "an ONNX file", "openvino": "an OpenVINO model", "torch": "a .pt2 archive"}


def is_exported_file(path: str | Path) -> bool:
    """Return whether a path is to be read as an exported file: by its ending, or else by its content.

    A damaged file with such an ending counts, so that the error says what is wrong with it.
    """
    if is_invalid_path(path) or os.path.isdir(path):
        return False
    path = Path(path)
    return path.suffix in ENDINGS or (path.is_file() and format_of(path) is not None)


def format_of(path: Path) -> Format | None:
    """Return the format of a file by its first bytes, or `None` for another file; the file may be damaged behind them.

    A zip archive is a `.pt2` if it says so inside, or if it is cut short and has that ending.
    """
    with path.open("rb") as file:
        start = file.read(256)
    if start.startswith(b"PK\3\4"):
        return "torch" if path.suffix == ".pt2" or _is_pt2(path) else None
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<?xml", b"<net")):
        return "openvino" if path.suffix == ".xml" or b"<net" in start else None
    if start.startswith(b"\x08"):  # ONNX's first field, the version of its representation
        return "onnx" if path.suffix == ".onnx" or _is_onnx(path) else None
    return None


def read_info(path: str | Path) -> tuple[Format, FileInfo]:
    """Return the format and the description of an exported file, without reading its weights.

    Raises:
        NotFoundError: there is no such file, or no `.bin` beside an `.xml`.
        WeightsError: the file is damaged, cut short, of another program, or of a newer format.
    """
    path = Path(path)
    _check_is_file(path)
    kind = format_of(path)
    if kind is None:
        raise WeightsError(f"{path} is neither an ONNX file, an OpenVINO model (.xml) nor a .pt2 archive{_hint(path)}")
    read = {"onnx": _read_onnx, "openvino": _read_openvino, "torch": read_extra}[kind]
    try:
        text = read(path)
    except (WeightsError, NotFoundError):
        raise
    except (ValueError, EOFError, OSError, BadZipFile, ElementTree.ParseError) as error:
        raise WeightsError(
            f"{path} is damaged or cut short ({first_line(error)}); copy it again, or export it again"
        ) from error
    if text is None:
        raise WeightsError(
            f"{path} is {TITLES[kind]} of another program, without a description under the key {KEY}; "
            f"make one of a trained network with twins export --format {kind}"
        )
    return kind, FileInfo.from_json(text, path)


def _check_is_file(path: Path) -> None:
    if is_invalid_path(path) or not path.exists():
        raise NotFoundError(f"there is no exported file {path}; check the path")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name the .onnx, .xml or .pt2 file in it")
    if not path.is_file():
        raise WeightsError(f"{path} is no ordinary file; name an .onnx, .xml or .pt2 file")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes); copy it again, or export it again")


def _hint(path: Path) -> str:
    """Return the end of a sentence about a file of unknown content."""
    model = path.with_suffix(".xml")
    if path.suffix == ".bin" and model.is_file():
        return f"; it holds the weights of {model.name}, name that"
    return ", or its first bytes are damaged; name a file that twins export wrote"


def _is_onnx(path: Path) -> bool:
    """Return whether all fields of a file are those of an ONNX model with a graph."""
    try:
        with path.open("rb") as file:
            return 7 in {number for number, _ in _fields(file)}
    except (ValueError, EOFError):
        return False


def _is_pt2(path: Path) -> bool:
    try:
        read_extra(path)
    except (WeightsError, ValueError, OSError, BadZipFile):
        return False
    return True


def _read_onnx(path: Path) -> str | None:
    """Return the text under the key in `metadata_props`, field 14; the graph, field 7, is skipped unread."""
    texts = {}
    numbers = set()
    with path.open("rb") as file:
        for number, length in _fields(file):
            numbers.add(number)
            if number == 14:
                entry = _strings(file.read(length))
                texts[entry.get(1, "")] = entry.get(2, "")
    if 7 not in numbers:
        raise EOFError("there is no graph in it")
    return texts.get(KEY)


def _strings(message: bytes) -> dict[int, str]:
    """Return the texts of a protobuf message by field number."""
    file = BytesIO(message)
    return {number: file.read(length).decode() for number, length in _fields(file)}


def _fields(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the number and the length of each field of a protobuf message, at whose content the file then stands.

    Raises:
        EOFError: the file ends inside a field.
        ValueError: the content is no message.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < size:
        number, wire = divmod(_varint(file), 8)
        if wire == 0:
            _varint(file)
            continue
        if wire not in (1, 2, 5) or not number:
            raise ValueError(f"unknown field {number} of type {wire}")
        length = _varint(file) if wire == 2 else {1: 8, 5: 4}[wire]
        end = file.tell() + length
        if end > size:
            raise EOFError(f"{end - size:,} bytes are missing")
        yield number, length
        file.seek(end)


def _varint(file: BinaryIO) -> int:
    """Read a protobuf integer: seven bits in each byte, the lowest first; the eighth bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is too long")


def _read_openvino(path: Path) -> str | None:
    root = ElementTree.parse(path).getroot()
    if root.tag != "net":
        raise ValueError(f"its outermost element is {root.tag:.40}, not net")
    entry = root.find(f"rt_info/{KEY}")
    if entry is not None:
        _check_bin(path, root)
    return None if entry is None else entry.get("value")


def _check_bin(path: Path, root: ElementTree.Element) -> None:
    """Raise an error if the weights beside an `.xml` are missing, or have another length than it says."""
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise NotFoundError(f"{path} needs its weights {weights.name} in the same folder; copy both files")
    ends = [
        int(data.get("offset", 0)) + int(data.get("size", 0))
        for layer in root.iter("layer")
        if layer.get("type") == "Const" and (data := layer.find("data")) is not None
    ]
    expected, size = max(ends, default=0), weights.stat().st_size
    if size != expected:
        raise WeightsError(
            f"{weights} is cut short or of another model: it has {size:,} bytes, {path.name} expects {expected:,}; "
            "copy both files again"
        )
