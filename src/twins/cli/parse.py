"""Command lines from dataclasses, through tyro; a mistake ends in one sentence."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import takewhile
from typing import Annotated, Any, TextIO, TypeVar, cast, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import Positional
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from twins.errors import ConfigError, nearest

T = TypeVar("T")
FILE = tyro.conf.arg(metavar="FILE")
"""Names the value of an option that takes a file."""
_HELP = ConstructorRegistry()
"""Names the values of other options in `--help`."""


@_HELP.primitive_rule
def _placeholder(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Call a whole number N, another number X and a text NAME."""
    kind: Any = info.type
    names = {int: "N", float: "X", str: "NAME"}
    if kind not in names:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=names[kind],
        instance_from_str=lambda words: kind(words[0]),
        is_instance=lambda value: isinstance(value, int | float if kind is float else kind),
        str_from_instance=lambda value: [str(value)],
    )


def parse(kind: type[T], verb: str, arguments: list[str], *, default: T | None = None) -> T:
    """Fill a dataclass from a verb's arguments.

    Args:
        kind: the dataclass; its fields are the flags, its docstrings their help.
        verb: what stands before the arguments.
        arguments: as the shell split them.
        default: where the flags start from; `None` is the dataclass's own defaults.

    Raises:
        ConfigError: a flag that does not exist, or a value that does not fit it.
    """
    complaint = io.StringIO()
    start: dict[str, Any] = {} if default is None else {"default": default}
    asked = any(argument in ("-h", "--help") for argument in arguments)
    try:
        with contextlib.nullcontext() if asked else contextlib.redirect_stderr(complaint):
            values, unknown = tyro.cli(
                kind,
                prog=f"twins {verb}",
                args=arguments,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
                registry=_HELP,
                **start,
            )
    except SystemExit as stop:
        if asked or not stop.code:
            raise
        raise ConfigError(
            f"{_sentence(complaint.getvalue(), kind, verb, arguments)}; see twins {verb} --help"
        ) from None
    if unknown:
        flags = [flag for flag in dict.fromkeys(spellings(kind).values()) if re.fullmatch(r"--[\w.\-]+", flag)]
        if not unknown[0].startswith("-"):
            known = "; the data set is given with --data" if "--data" in flags else ""
            raise ConfigError(f"twins {verb} has no place for {unknown[0]!r}{known}; see twins {verb} --help")
        raise ConfigError(
            f"twins {verb} has no {unknown[0]}{nearest(unknown[0].partition('=')[0], flags)}; see twins {verb} --help"
        )
    return values


def spellings(kind: type[Any]) -> dict[str, str]:
    """Return how a command line spells the settings of a verb's dataclass.

    `batch_size` is `--batch-size`, `optimizer.lr` is `--optimizer.lr`, a positional `model` is `MODEL`, a group
    `masks` is `--masks.*`. A group without a name of its own is all its flags, and has its settings under both names:
    `inference.scales` and `scales` are `--scales`. A switch has its values too: `compile=False` is `--no-compile`.
    """
    return dict(_spelled(kind, "", "--"))


def _spelled(kind: Any, path: str, prefix: str) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(kind, include_extras=True)
    for name in (field.name for field in fields(kind)):
        bare, *marks = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        setting, flag = path + name, prefix + name.replace("_", "-")
        if is_dataclass(bare) and any(getattr(mark, "name", None) == "" for mark in marks):
            own = dict(_spelled(bare, path, prefix))
            yield setting, ", ".join(flag for name, flag in own.items() if "=" not in name)
            yield from _spelled(bare, f"{setting}.", prefix)
            yield from own.items()
        elif is_dataclass(bare):
            yield setting, f"{flag}.*"
            yield from _spelled(bare, f"{setting}.", f"{flag}.")
        elif Positional in marks:
            yield setting, next(mark.metavar for mark in marks if getattr(mark, "metavar", None)).strip("[.]")
        else:
            yield setting, flag
        if bare is bool:
            yield from ((f"{setting}=True", flag), (f"{setting}=False", f"{prefix}no-{name.replace('_', '-')}"))


def in_flags(sentence: str, kind: type[Any]) -> str:
    """Return a sentence of the library with settings spelled as the flags of a verb, whose dataclass `kind` is.

    Below the command line a setting stands in backticks under its Python name, alone or with a value: `batch_size`,
    `optimizer.lr`, `task="semantic"`. Of these, a verb's own become `--batch-size`, `--optimizer.lr`,
    `--task semantic`; others lose their backticks.
    """
    known = spellings(kind)

    def spell(found: re.Match[str]) -> str:
        text, name, value = found[0].strip("`"), found["name"], found["value"]
        if text in known or name not in known:
            return known.get(text, text)
        words = [] if known[name][0] != "-" else [known[name]]
        return " ".join([*words, *_words(value)])

    return re.sub(r"`(?P<name>[a-z][a-z0-9_.]*)(?:=(?P<value>[^`]+))?`", spell, sentence)


def _words(value: str) -> list[str]:
    """Return a value as Python writes it, such as `"semantic"` or `(0.5, 1.0)`, as a shell takes it."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a placeholder such as PATH, or a path with a quote in it
        found = value.strip("\"'")
    return [shlex.quote(str(word)) for word in (found if isinstance(found, tuple | list) else [found])]


@contextlib.contextmanager
def stderr_in_flags(kind: type[Any]) -> Iterator[None]:
    """Let sentences of the library on stderr, such as errors and the notes of a run, name the flags of a verb."""
    with contextlib.redirect_stderr(cast(TextIO, _InFlags(sys.stderr, kind))):
        yield


class _InFlags:
    def __init__(self, stream: TextIO, kind: type[Any]) -> None:
        self._stream, self._kind = stream, kind

    def write(self, text: str) -> int:
        return self._stream.write(in_flags(text, self._kind))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def value_of(flag: str, arguments: list[str]) -> str | None:
    """Return what a flag is given, as `--flag value` or `--flag=value`, before the whole line is parsed."""
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


_CLEARER = (
    (
        r".*invalid choice ('.*') for argument '(\S+)'\. Expected one of \(([^)]*)\).*",
        r"\2 must be one of \3, found \1",
    ),
    (r".*Missing value for argument '(\S+)'\. Expected (\d+) values?.*", r"\1 lacks a value; it takes \2"),
)
"""What tyro says, as a sentence of ours."""


def _sentence(text: str, kind: type[Any], verb: str, arguments: list[str]) -> str:
    """Return tyro's framed complaint as one line."""
    plain = re.sub(r"[╭╮╰╯│─]|-{9,}", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))
    named = re.findall(r"^ {6}(\S+)", plain.partition("Missing from")[2], flags=re.MULTILINE)
    needed = [spelled for spelled in spellings(kind).values() if spelled in {name.strip("[.]") for name in named}]
    if needed:
        return f"twins {verb} needs {' and '.join(dict.fromkeys(needed))}"
    if usage := re.search(r"Argument helptext:\s+((--\S+).*)", plain):
        return f"twins {verb} takes {usage[1].strip()}, found {' '.join(_given(usage[2], arguments))}"
    words = " ".join(plain.partition("For full helptext")[0].split()).rstrip(".")
    for pattern, clearer in _CLEARER:
        words = re.sub(pattern, clearer, words)
    return words or "the command line could not be read"


def _given(flag: str, arguments: list[str]) -> list[str]:
    """Return the words of a command line from a flag to the next."""
    start = max((n for n, word in enumerate(arguments) if word.partition("=")[0] == flag), default=len(arguments))
    values = takewhile(lambda word: not word.startswith("--"), arguments[start + 1 :])
    return [*arguments[start : start + 1], *values]
