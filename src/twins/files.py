"""Atomic writing of files, checks of output paths, and hashing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from twins.errors import ConfigError, NotFoundError, TrainingError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; after the block, the file is synced and replaces `path` in one step.

    Raises:
        ConfigError: the folder does not exist.
        TrainingError: the disk is full or not writable; an existing file at `path` is untouched.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} to write {path.name} in; make it first")
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise TrainingError(
            f"{path} could not be written ({first_line(error)}); free space or choose another folder, "
            "the previous content is unchanged"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write JSON in one atomic step.

    Raises:
        ConfigError: the folder does not exist.
        TrainingError: the disk is full or not writable.
    """
    with atomic_file(Path(path)) as temporary:
        text = json_text(content, indent=1) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # JSON's form for what is no text


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return content as JSON; numbers that are not finite, for which JSON has no form, become null."""
    try:
        return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_with_nulls(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _with_nulls(content: Any) -> Any:
    """Return JSON-ready values with `None` for numbers that are not finite."""
    if isinstance(content, Mapping):
        return {key: _with_nulls(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_nulls(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_outputs(
    outputs: Mapping[str, str | Path | None],
    inputs: Iterable[tuple[str, str | Path]] = (),
    *,
    data: str | Path | None = None,
    binary: bool = False,
) -> None:
    """Check output files before a command computes anything.

    Args:
        outputs: names of settings, such as `json`, with their files; `None` writes nothing.
        inputs: files that are read or otherwise must not be replaced, each as (description, path).
        data: folder of the data set, if there is one; its files are inputs, except results of ours.
        binary: the outputs may replace files that hold no text.

    Raises:
        ConfigError: an output would replace an input, another output, or a binary file, such as the first image of a
            shell pattern; or it cannot be written.
    """
    paths = {name: path for name, path in outputs.items() if path is not None}
    used_files = {_identity(path): description for description, path in inputs} if paths else {}
    for name, path in paths.items():
        setting = f'`{name}="{path}"`'
        _check_output(name, setting, Path(path) if path else None, binary=binary)
        if (description := used_files.get(identity := _identity(path))) is not None:
            raise ConfigError(f"{setting} is {description}, which would be lost; name another file")
        if data is not None and _is_data(Path(path), Path(data)):
            raise ConfigError(f'{setting} is a file of `data="{data}"`, which would be lost; name another file')
        used_files[identity] = f"what `{name}` names"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_of(path: str | Path, description: str) -> Path:
    """Return a text as a path; raise NotFoundError, with `description` in its message, if it is empty or not valid."""
    if path == "":
        raise NotFoundError(f"the path of the {description} is empty; give one, or . for the current folder")
    if is_invalid_path(path):
        raise NotFoundError(f"there is no {description} {path}; check the path")
    return Path(path)


def is_invalid_path(path: str | Path) -> bool:
    """Return whether a path is not valid: too long for the file system, or with a null character."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    except ValueError:  # a null character
        return True
    return False


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _check_output(name: str, setting: str, path: Path | None, *, binary: bool) -> None:
    """Raise ConfigError for a file that holds no text unless `binary`, or a path that cannot be written."""
    if path is None:
        raise ConfigError(f"`{name}` names no file; give one, or leave it out")
    if os.path.isdir(path):
        raise ConfigError(f"{setting} is a folder; name a file in it")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"{setting}: there is no folder {path.parent} to write it in; make it first")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{setting} is no ordinary file; name another")
    try:
        if not binary and os.path.exists(path) and b"\0" in _first_bytes(path):
            raise ConfigError(
                f"{setting} is an image or another file that holds no text, which would be lost; "
                f"give the name of the file to write right after `{name}`"
            )
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):  # as atomic_file will
            pass
    except OSError as error:
        raise ConfigError(f"{setting} cannot be written ({error.strerror}); choose another place") from error


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _is_data(path: Path, data: Path) -> bool:
    """Return whether a path is a file of a data folder; a result of ours, which begins with its format, is not."""
    is_file_of_data = os.path.isfile(path) and path.resolve().is_relative_to(data.resolve())
    return is_file_of_data and re.match(rb'\s*\{\s*"format"', _first_bytes(path)) is None


def _identity(path: str | Path) -> object:
    """Return a value that is equal for two paths of the same file, whether it exists or not."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
