"""Import of the optional packages for exports, without their telemetry."""

from __future__ import annotations

import os
import sys
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
