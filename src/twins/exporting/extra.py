"""Import of the optional packages for exports."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from twins.errors import MissingExtraError


def require(name: str) -> ModuleType:
    """Import a package of the extra `export`, such as `openvino`, and return it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"exports need {name}; pip install 'twins-vision[export]'") from error
