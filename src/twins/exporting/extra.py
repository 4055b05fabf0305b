"""Use of the optional packages for exports without their telemetry and their log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from twins.errors import MissingExtraError


def require(name: str) -> ModuleType:
    """Import a package of the extra `export`, such as `openvino`, and return it; it sends no telemetry.

    Raises:
        MissingExtraError: it is not installed.
    """
    silence_telemetry()
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"exports need {name}; pip install 'twins-vision[export]'") from error


def silence_telemetry() -> None:
    """Keep OpenVINO, NNCF and ONNX Runtime from sending events, and from writing an id into the user's home folder.

    OpenVINO and NNCF send events through the package `openvino_telemetry`, and use a stand-in where it cannot be
    imported: it is made so in this process. ONNX Runtime, which sends from 1.32 on Linux too, reads an environment
    variable before its first session. A program that imported `openvino_telemetry` or set the variable before keeps
    what it chose.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's mark of no such module
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence what loggers say below an error; `""` is the root."""
    found = [logging.getLogger(name) for name in loggers]
    before = [logger.level for logger in found]
    try:
        for logger in found:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(found, before, strict=True):
            logger.setLevel(level)
