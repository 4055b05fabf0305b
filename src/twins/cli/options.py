"""The options of a verb, read from the dataclass that they fill: for help, completion and error messages."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Hashable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a verb: a field of its dataclass, or of a group in it."""

    settings: tuple[str, ...]
    """Names in Python, such as `optimizer.lr`; of a group without a prefix `scales` and `inference.scales`."""
    flag: str
    """Spelling on the command line, such as `--optimizer.lr`; for a positional its placeholder, such as `IMAGE`."""
    value: str
    """Placeholder of the value, such as `N`; empty for a switch."""
    kind: Any
    """Type of the field, without `None` if that is one of two."""
    optional: bool
    """Whether `None` is a value."""
    default: Any
    """Value without the flag; `MISSING` if there is none."""
    text: str
    """Help text: the docstring of the field, in one line."""
    group: str = ""
    """Help text of the group that the field is in; empty for the dataclass itself."""

    @property
    def positional(self) -> bool:
        """Whether the option has no flag."""
        return not self.flag.startswith("--")

    @property
    def is_switch(self) -> bool:
        """Whether the flag has no value."""
        return self.kind is bool

    @property
    def spellings(self) -> tuple[str, ...]:
        """Flags of the option: a switch can also be turned off."""
        return (self.flag, _negated(self.flag)) if self.is_switch else (self.flag,)

    @property
    def summary(self) -> str:
        """First clause of the help text, and the one that says what happens without the option."""
        sentence = re.match(r"(?:[^(.]|\([^)]*\)|\.(?! |$))*", self.text)
        first, *others = re.split(r"; (?![^(]*\))", sentence[0] if sentence else "")
        return "; ".join([first, *(clause for clause in others if clause.startswith("unset"))]) + "."

    @property
    def count(self) -> int | None:
        """Number of values that follow the flag; `None` for any number."""
        if get_origin(self.kind) is not tuple:
            return int(not self.is_switch)
        return None if get_args(self.kind)[-1] is Ellipsis else len(get_args(self.kind))

    @property
    def choices(self) -> tuple[str, ...]:
        """Words that are the only valid values; empty if there are others."""
        kind = get_args(self.kind)[0] if get_origin(self.kind) is tuple else self.kind
        return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()

    def accepts(self, words: list[str]) -> bool:
        """Return whether words are values of the option, as far as their types say."""
        kinds = get_args(self.kind) if get_origin(self.kind) is tuple else (self.kind,)
        kinds = kinds[:1] * len(words) if kinds[-1] is Ellipsis else kinds
        if self.optional and words == ["None"]:
            return True
        return len(words) == len(kinds) and all(map(_accepts, kinds, words))


def options_of(kind: type[Any]) -> list[Option]:
    """Return the options of a verb's dataclass, in the order of its fields."""
    return list(_options(kind, "--", MISSING, ""))


def _options(kind: type[Any], prefix: str, instance: Any, group: str) -> Iterator[Option]:
    hints, texts = get_type_hints(kind, include_extras=True), _docstrings(cast(Hashable, kind))
    for field in fields(kind):
        field_kind, *extras = _unpack(hints[field.name])
        default = _default(field) if instance is MISSING else getattr(instance, field.name)
        flag, text = prefix + field.name.replace("_", "-"), texts.get(field.name, "")
        if is_dataclass(field_kind):
            unnamed = any(getattr(extra, "name", None) == "" for extra in extras)
            for option in _options(cast(type[Any], field_kind), prefix if unnamed else f"{flag}.", default, text):
                names = tuple(f"{field.name}.{name}" for name in option.settings)
                yield replace(option, settings=(*option.settings, *names) if unnamed else names)
            continue
        given = next((extra.metavar for extra in extras if getattr(extra, "metavar", None)), None)
        if Positional in extras:
            flag = (given or field.name.upper()).strip("[.]")
        plain = _without_none(field_kind)
        yield Option(
            settings=(field.name,),
            flag=flag,
            value=given or _placeholder(plain),
            kind=plain,
            optional=NoneType in _union(field_kind),
            default=default,
            text=text,
            group=group,
        )


def _unpack(hint: Any) -> tuple[Any, ...]:
    """Return a type and its annotations."""
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _negated(flag: str) -> str:
    """Return the flag that turns a switch off: `--no-flip`, or in a group `--augment.no-flip`."""
    group, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{group}{dot}no-{name}"


@cache
def _docstrings(kind: Any) -> dict[str, str]:
    """Return the docstrings of a dataclass's fields in one line each; empty if its source is not there."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except OSError:
        return {}
    assert isinstance(definition, ast.ClassDef)
    return {
        node.target.id: " ".join(after.value.value.split())
        for node, after in pairwise(definition.body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }


def _union(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union; a type that is none alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _without_none(kind: Any) -> Any:
    """Return a type without `None`; yes or no that may be unset has the words `True` and `False`."""
    kinds = [alternative for alternative in _union(kind) if alternative is not NoneType]
    if len(kinds) == len(_union(kind)):
        return kind
    return Literal[True, False] if kinds == [bool] else Union[tuple(kinds)]  # noqa: UP007


def _placeholder(kind: Any) -> str:
    """Return what stands for a value: N for an integer, X for another number, NAME for a text, or the choices."""
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        return f"{_placeholder(first)}..." if others == [...] else " ".join(map(_placeholder, get_args(kind)))
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    names = {int: "N", float: "X", str: "NAME", bool: ""}
    return names[kind] if kind in names else "|".join(map(_placeholder, get_args(kind)))


def _accepts(kind: Any, word: str) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_accepts(alternative, word) for alternative in get_args(kind))
    if get_origin(kind) is Literal:
        return word in map(str, get_args(kind))
    if kind not in (int, float):
        return kind is str
    try:
        kind(word)
    except ValueError:
        return False
    return True
