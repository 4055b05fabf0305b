"""Parses command lines into dataclasses by tyro, and makes one sentence of each of its errors."""

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
"""Annotation of an option whose value `--help` shows as FILE."""
_PLACEHOLDERS = ConstructorRegistry()
"""Rule for the value that `--help` shows for other options."""


@_PLACEHOLDERS.primitive_rule
def _placeholder(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Show an integer as N, a float as X and a string as NAME."""
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
        verb: the verb, for the usage line and error messages.
        arguments: the words of the command line after the verb.
        default: the settings if a flag is not given; `None` uses the dataclass's own defaults.

    Raises:
        ConfigError: an unknown flag, a missing value, or a value of the wrong type.
    """
    error_output = io.StringIO()
    default_argument: dict[str, Any] = {} if default is None else {"default": default}
    wants_help = any(argument in ("-h", "--help") for argument in arguments)
    try:
        with contextlib.nullcontext() if wants_help else contextlib.redirect_stderr(error_output):
            values, unknown = tyro.cli(
                kind,
                prog=f"twins {verb}",
                args=arguments,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
                registry=_PLACEHOLDERS,
                **default_argument,
            )
    except SystemExit as stop:
        if wants_help or not stop.code:
            raise
        raise ConfigError(
            f"{_sentence(error_output.getvalue(), kind, verb, arguments)}; see twins {verb} --help"
        ) from None
    if unknown:
        flags = [flag for flag in dict.fromkeys(spellings(kind).values()) if re.fullmatch(r"--[\w.\-]+", flag)]
        if not unknown[0].startswith("-"):
            hint = "; the data set is given with --data" if "--data" in flags else ""
            raise ConfigError(f"twins {verb} has no place for {unknown[0]!r}{hint}; see twins {verb} --help")
        raise ConfigError(
            f"twins {verb} has no {unknown[0]}{nearest(unknown[0].partition('=')[0], flags)}; see twins {verb} --help"
        )
    return values


def spellings(kind: type[Any]) -> dict[str, str]:
    """Return the spelling on the command line of each setting of a verb's dataclass.

    - `batch_size` becomes `--batch-size`, `optimizer.lr` becomes `--optimizer.lr`.
    - A positional `model` becomes `MODEL`.
    - A group `masks` becomes `--masks.*`.
    - A group without a prefix becomes the list of its flags. Each of its settings has two entries, with and without the
      group's name: `inference.scales` and `scales` become `--scales`.
    - A switch also has an entry for each value: `compile=False` becomes `--no-compile`.
    """
    return dict(_spelled(kind, "", "--"))


def _spelled(kind: Any, path: str, prefix: str) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(kind, include_extras=True)
    for name in (field.name for field in fields(kind)):
        field_type, *extras = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        setting, flag = path + name, prefix + name.replace("_", "-")
        if is_dataclass(field_type) and any(getattr(extra, "name", None) == "" for extra in extras):
            members = dict(_spelled(field_type, path, prefix))
            yield setting, ", ".join(flag for name, flag in members.items() if "=" not in name)
            yield from _spelled(field_type, f"{setting}.", prefix)
            yield from members.items()
        elif is_dataclass(field_type):
            yield setting, f"{flag}.*"
            yield from _spelled(field_type, f"{setting}.", f"{flag}.")
        elif Positional in extras:
            yield setting, next(extra.metavar for extra in extras if getattr(extra, "metavar", None)).strip("[.]")
        else:
            yield setting, flag
        if field_type is bool:
            yield from ((f"{setting}=True", flag), (f"{setting}=False", f"{prefix}no-{name.replace('_', '-')}"))


def in_flags(sentence: str, kind: type[Any]) -> str:
    """Spell the settings in a sentence of the library as flags of the verb with the dataclass `kind`.

    The library writes settings as in Python, in backticks, with or without a value: `batch_size`, `optimizer.lr`,
    `task="semantic"`. They become `--batch-size`, `--optimizer.lr`, `--task semantic` if the verb has such flags;
    otherwise only the backticks are removed.
    """
    flags = spellings(kind)

    def spell(match: re.Match[str]) -> str:
        text, name, value = match[0].strip("`"), match["name"], match["value"]
        if text in flags or name not in flags:
            return flags.get(text, text)
        words = [] if flags[name][0] != "-" else [flags[name]]
        return " ".join([*words, *_words(value)])

    return re.sub(r"`(?P<name>[a-z][a-z0-9_.]*)(?:=(?P<value>[^`]+))?`", spell, sentence)


def _words(value: str) -> list[str]:
    """Return the words of a Python literal, such as `"semantic"` or `(0.5, 1.0)`, quoted for a shell."""
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a placeholder such as PATH, or a path with a quote in it
        literal = value.strip("\"'")
    return [shlex.quote(str(word)) for word in (literal if isinstance(literal, tuple | list) else [literal])]


@contextlib.contextmanager
def stderr_in_flags(kind: type[Any]) -> Iterator[None]:
    """Within this context, spell settings as a verb's flags in all text on stderr, such as errors and notes."""
    with contextlib.redirect_stderr(cast(TextIO, _InFlags(sys.stderr, kind))):
        yield


class _InFlags:
    """Wraps a text stream and writes each text as `in_flags` returns it."""

    def __init__(self, stream: TextIO, kind: type[Any]) -> None:
        self._stream, self._kind = stream, kind

    def write(self, text: str) -> int:
        return self._stream.write(in_flags(text, self._kind))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def given_settings(kind: type[Any], arguments: list[str]) -> frozenset[str]:
    """Return the dotted names of the settings whose flags a command line has."""
    words = {argument.partition("=")[0] for argument in arguments}
    return frozenset(setting.partition("=")[0] for setting, flag in spellings(kind).items() if flag in words)


def value_of(flag: str, arguments: list[str]) -> str | None:
    """Return the value of `--flag value` or `--flag=value`, without parsing the rest of the line."""
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


_REWRITES = (
    (
        r".*invalid choice ('.*') for argument '(\S+)'\. Expected one of \(([^)]*)\).*",
        r"\2 must be one of \3, found \1",
    ),
    (r".*Missing value for argument '(\S+)'\. Expected (\d+) values?.*", r"\1 lacks a value; it takes \2"),
)
"""Patterns of tyro's messages, each with its replacement."""


def _sentence(text: str, kind: type[Any], verb: str, arguments: list[str]) -> str:
    """Return tyro's error message, several lines in a box, as one sentence."""
    unboxed = re.sub(r"[╭╮╰╯│─]|-{9,}", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))
    listed = re.findall(r"^ {6}(\S+)", unboxed.partition("Missing from")[2], flags=re.MULTILINE)
    missing = [spelled for spelled in spellings(kind).values() if spelled in {name.strip("[.]") for name in listed}]
    if missing:
        return f"twins {verb} needs {' and '.join(dict.fromkeys(missing))}"
    if usage := re.search(r"Argument helptext:\s+((--\S+).*)", unboxed):
        return f"twins {verb} takes {usage[1].strip()}, found {' '.join(_flag_and_values(usage[2], arguments))}"
    sentence = " ".join(unboxed.partition("For full helptext")[0].split()).rstrip(".")
    for pattern, replacement in _REWRITES:
        sentence = re.sub(pattern, replacement, sentence)
    return sentence or "the command line could not be read"


def _flag_and_values(flag: str, arguments: list[str]) -> list[str]:
    """Return the last occurrence of a flag in a command line, and the values after it."""
    start = max((n for n, word in enumerate(arguments) if word.partition("=")[0] == flag), default=len(arguments))
    values = takewhile(lambda word: not word.startswith("--"), arguments[start + 1 :])
    return [*arguments[start : start + 1], *values]
