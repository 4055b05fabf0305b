"""Settings as values of YAML and back: dataclasses from dicts, with a check of each value's type."""

from __future__ import annotations

from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from twins.errors import ConfigError, nearest, number_of


def to_lists(value: Any) -> Any:
    """Turn tuples into lists, for YAML."""
    if isinstance(value, dict):
        return {key: to_lists(item) for key, item in value.items()}
    return [to_lists(item) for item in value] if isinstance(value, tuple | list) else value


def build_config(cls: type, values: dict[str, Any], prefix: str) -> Any:
    """Return a dataclass built from a dict, with the dataclasses inside it.

    Raises:
        ConfigError: an unknown setting, or a value of the wrong type or out of range; `prefix` stands before its name.
    """
    assert is_dataclass(cls)
    types = get_type_hints(cls)
    if unknown := sorted(map(str, set(values) - set(types))):
        raise ConfigError(f"there is no setting {prefix}{unknown[0]}{nearest(unknown[0], types)}")
    built = {}
    for name, value in values.items():
        if is_dataclass(types[name]) and isinstance(value, dict):
            built[name] = build_config(types[name], value, f"{name}.")
            continue
        built[name] = tuple(value) if isinstance(value, list) else value
        if not _has_type(built[name], types[name]):
            raise ConfigError(
                f"{prefix}{name} has a value of the wrong kind, {value!r}; it must be {_describe_type(types[name])}"
            )
    return cls(**built)


def _has_type(value: object, expected: Any) -> bool:
    """Return whether a value has a field's type; an int is a float, and `Literal` choices are checked elsewhere."""
    arguments = get_args(expected)
    if get_origin(expected) in (Union, UnionType):
        return any(_has_type(value, option) for option in arguments)
    if get_origin(expected) is Literal:
        return any(type(value) is type(choice) for choice in arguments)
    if get_origin(expected) is tuple:
        item_types = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is Ellipsis else arguments
        return isinstance(value, tuple) and len(value) == len(item_types) and all(map(_has_type, value, item_types))
    if expected is float:
        return type(value) in (int, float)
    return type(value) is expected


def _describe_type(expected: Any) -> str:
    """Return a description of a field's type, for messages."""
    arguments = get_args(expected)
    if get_origin(expected) in (Union, UnionType):
        return " or ".join(_describe_type(option) for option in arguments)
    if get_origin(expected) is tuple:
        return "a list" if arguments[-1] is Ellipsis else f"a list of {number_of(len(arguments), 'value')}"
    names = {float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"}
    return "names with values" if is_dataclass(expected) else names.get(expected, "text")
