"""Writing files in one atomic step, checking beforehand that they can be written, and hashing them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from twins.errors import ConfigError, NotFoundError, TrainingError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the block ends well the file is synced and takes its place.

    Raises:
        ConfigError: the folder does not exist.
        TrainingError: the disk is full or refuses; what stood at `path` is untouched.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} to write {path.name} in; make it first")
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
    except (OSError, RuntimeError) as error:
        raise TrainingError(
            f"{path} could not be written ({first_line(error)}); free space or choose another folder, "
            "what stood there before is untouched"
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write JSON in one atomic step.

    Raises:
        ConfigError: there is no such folder.
        TrainingError: the disk is full or refuses.
    """
    with atomic_file(Path(path)) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def check_outputs(
    outputs: Mapping[str, str | Path | None],
    inputs: Iterable[tuple[str, str | Path]] = (),
    *,
    data: str | Path | None = None,
) -> None:
    """Check the files that a command is to write, before it computes anything.

    Args:
        outputs: settings such as `json` with their files; `None` is not asked for.
        inputs: what is read, and the places of other results, each as (what it is, path).
        data: folder of a data set, where there is one; what lies in it and was not written by `evaluate` is read too.

    Raises:
        ConfigError: a file that would replace what is read, another output, or a file that holds no text, such as the
            first image of a pattern; or that cannot be made.
    """
    wanted = {name: path for name, path in outputs.items() if path is not None}
    taken = {_identity(path): what for what, path in inputs} if wanted else {}
    for name, path in wanted.items():
        setting = f'`{name}="{path}"`'
        _check_output(name, setting, Path(path) if path else None)
        if (what := taken.get(identity := _identity(path))) is not None:
            raise ConfigError(f"{setting} is {what}, which would be lost; name another file")
        if data is not None and _is_data(Path(path), Path(data)):
            raise ConfigError(f'{setting} is a file of `data="{data}"`, which would be lost; name another file')
        taken[identity] = f"what `{name}` names"


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_of(given: str | Path, what: str) -> Path:
    """Return a path to `what`, said in words; raises NotFoundError for one that is empty or that no file can have."""
    if given == "":
        raise NotFoundError(f"the path of the {what} is empty; give one, or . for the current folder")
    if too_long(given):
        raise NotFoundError(f"there is no {what} {given}; check the path")
    return Path(given)


def too_long(path: str | Path) -> bool:
    """Return whether no file can have a path: the system then refuses to look whether it exists."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    except ValueError:  # a null character
        return True
    return False


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name when the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _check_output(name: str, setting: str, path: Path | None) -> None:
    """Raise ConfigError for a file that holds no text, or cannot be made."""
    if path is None:
        raise ConfigError(f"`{name}` names no file; give one, or leave it out")
    if os.path.isdir(path):
        raise ConfigError(f"{setting} is a folder; name a file in it")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"{setting}: there is no folder {path.parent} to write it in; make it first")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{setting} is no ordinary file; name another")
    try:
        if os.path.exists(path) and b"\0" in _start(path):
            raise ConfigError(
                f"{setting} is an image or another file that holds no text, which would be lost; "
                f"give the name of the file to write right after `{name}`"
            )
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):  # as atomic_file will
            pass
    except OSError as error:
        raise ConfigError(f"{setting} cannot be written ({error.strerror}); choose another place") from error


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _is_data(path: Path, data: Path) -> bool:
    """Whether a file of a data folder would be lost; a result of ours, which begins with its format, is no data."""
    inside = os.path.isfile(path) and path.resolve().is_relative_to(data.resolve())
    return inside and re.match(rb'\s*\{\s*"format"', _start(path)) is None


def _identity(path: str | Path) -> object:
    """Return a value that is equal for two paths to one file, whether it exists or not."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
