"""Parses command lines into dataclasses by tyro, and makes one sentence of each of its errors."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from itertools import takewhile
from typing import Any, TextIO, TypeVar, cast

import tyro

from twins.cli.options import Option, options_of
from twins.errors import ConfigError, nearest

T = TypeVar("T")
FILE = tyro.conf.arg(metavar="FILE")
"""Annotation of an option whose value `--help` shows as FILE."""


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
    if sentence := _explain_accepted(kind, arguments):
        raise ConfigError(f"{sentence}; see twins {verb} --help")
    error_output = io.StringIO()
    default_argument: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(error_output):
            values, unknown = tyro.cli(
                kind,
                prog=f"twins {verb}",
                args=arguments,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
                **default_argument,
            )
    except SystemExit:
        unknown = [""]
    if unknown:
        sentence = explain(kind, verb, arguments, [*filter(None, unknown)])
        raise ConfigError(f"{sentence or _unboxed(error_output.getvalue())}; see twins {verb} --help")
    return values


def explain(kind: type[Any], verb: str, arguments: list[str], unknown: list[str]) -> str | None:
    """Return a sentence on the first mistake in a command line; `None` if there is none to see.

    Args:
        kind: the dataclass of the verb.
        verb: the verb.
        arguments: the words after the verb.
        unknown: those of them that have no place, if the others are right.
    """
    options, flags = options_of(kind), _flags_of(kind)
    words = 0
    for position, word in enumerate(arguments):
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-")
        if not word.startswith("--"):
            words += 1
            continue
        if (option := flags.get(name)) is None:
            return f"twins {verb} has no {word.partition('=')[0]}{_nearest_flag(name, flags)}"
        following = _values_after(arguments, position)
        if option.is_switch and not equals:
            continue
        if sentence := _explain_values(option, name, following):
            return sentence
        words -= 0 if equals else len(following) if option.count is None else option.count
    required = [option for option in options if option.default is MISSING and option.count is not None]
    given = {word.partition("=")[0] for word in arguments}
    missing = [option.flag for option in required if option.positional][max(words, 0) :]
    missing += [option.flag for option in required if not option.positional and option.flag not in given]
    if missing:
        return f"twins {verb} needs {' and '.join(missing)}"
    if unknown and unknown[0].startswith("-"):
        return f"twins {verb} has no {unknown[0]}{_nearest_flag(unknown[0].partition('=')[0], flags)}"
    hint = "; the data set is given with --data" if "--data" in flags else ""
    return f"twins {verb} has no place for {unknown[0]!r}{hint}" if unknown else None


def _explain_accepted(kind: type[Any], arguments: list[str]) -> str | None:
    """Return a sentence on a mistake that tyro accepts: a value of a switch, or a list without values."""
    flags = _flags_of(kind)
    for position, word in enumerate(arguments):
        name, equals, _ = word.partition("=")
        option = flags.get(name := name.replace("_", "-"))
        if option is None or option.positional or (option.is_switch and not equals):
            continue
        values = _values_after(arguments, position)
        if option.is_switch or (option.count is None and not values):
            return _explain_values(option, name, values)
    return None


def _flags_of(kind: type[Any]) -> dict[str, Option]:
    """Return the option of each flag, in all its spellings, and of each placeholder of a positional."""
    return {spelling: option for option in options_of(kind) for spelling in option.spellings}


def _values_after(arguments: list[str], position: int) -> list[str]:
    """Return the value after the `=` of a flag, or the words up to the next flag."""
    _, equals, value = arguments[position].partition("=")
    return [value] if equals else [*takewhile(lambda word: not word.startswith("--"), arguments[position + 1 :])]


_EXPECTED = {"N": "a whole number", "N...": "whole numbers", "X": "a number", "X...": "numbers", "X X": "two numbers"}
"""What a placeholder stands for, in a sentence."""


def _explain_values(option: Option, flag: str, words: list[str]) -> str | None:
    """Return a sentence if the words after a flag are not its values."""
    count, expected = option.count, _EXPECTED.get(option.value, option.value)
    values = words[:count]
    if option.is_switch:
        return f"{flag} is a switch and takes no value, found {words[0]!r}"
    if not values:
        return f"{flag} lacks its {'value' if count == 1 else 'values'}: it takes {expected}, found nothing"
    if option.accepts(values):
        return None
    if option.choices:
        wrong = next(word for word in values if word not in option.choices)
        return f"{flag} must be one of {', '.join(map(repr, option.choices))}, found {wrong!r}"
    return f"{flag} takes {expected}, found {' '.join(values)}"


def _nearest_flag(name: str, flags: Iterable[str]) -> str:
    """Return `; did you mean --optimizer.lr?` for `--lr` or `--optimiser.lr`."""
    in_groups = [flag for flag in flags if flag.rpartition(".")[2] == name.removeprefix("--")]
    return f"; did you mean {', '.join(in_groups)}?" if in_groups else nearest(name, flags, count=1)


def _unboxed(text: str) -> str:
    """Return tyro's error message, several lines in a box, in one line."""
    text = re.sub(r"[╭╮╰╯│─]|-{9,}", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))
    return " ".join(text.partition("For full helptext")[0].split()).rstrip(".") or "the command line could not be read"


def spellings(kind: type[Any]) -> dict[str, str]:
    """Return the spelling on the command line of each setting of a verb's dataclass.

    - `batch_size` becomes `--batch-size`, `optimizer.lr` becomes `--optimizer.lr`.
    - A positional `model` becomes `MODEL`.
    - A group `masks` becomes `--masks.*`.
    - A group without a prefix becomes the list of its flags. Each of its settings has two entries, with and without the
      group's name: `inference.scales` and `scales` become `--scales`.
    - A switch also has an entry for each value: `compile=False` becomes `--no-compile`.
    """
    spelled: dict[str, str] = {}
    for option in options_of(kind):
        for setting in option.settings:
            spelled[setting] = option.flag
            if option.is_switch:
                spelled |= {f"{setting}=True": option.spellings[0], f"{setting}=False": option.spellings[1]}
            if group := setting.rpartition(".")[0]:
                prefix, dot, _ = option.flag.rpartition(".")
                flags = f"{prefix}.*" if dot else ", ".join(filter(None, (spelled.get(group), option.flag)))
                spelled[group] = flags
    return spelled


def in_flags(sentence: str, kind: type[Any]) -> str:
    """Spell the settings in a sentence of the library as flags of the verb with the dataclass `kind`.

    The library writes settings as in Python, in backticks, with or without a value: `batch_size`, `optimizer.lr`,
    `task="semantic"`. They become `--batch-size`, `--optimizer.lr`, `--task semantic` if the verb has such flags;
    otherwise only the backticks are removed.
    """
    if "`" not in sentence:  # most of what is written to a log or a progress bar
        return sentence
    flags = spellings(kind)

    def spell(match: re.Match[str]) -> str:
        """Return a setting as the user typed it, with its value."""
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
    words = {_flag(argument) for argument in arguments}
    return frozenset(setting.partition("=")[0] for setting, flag in spellings(kind).items() if flag in words)


def value_of(flag: str, arguments: list[str]) -> str | None:
    """Return the value of `--flag value` or `--flag=value`, without parsing the rest of the line."""
    for position, argument in enumerate(arguments):
        if _flag(argument) != flag:
            continue
        if "=" in argument:
            return argument.partition("=")[2]
        if position + 1 < len(arguments):
            return arguments[position + 1]
    return None


def without(flag: str, arguments: list[str]) -> list[str]:
    """Return a command line without a flag and its value."""
    words: list[str] = []
    skip = False
    for word in arguments:
        is_flag = _flag(word) == flag
        if not skip and not is_flag:
            words.append(word)
        skip = is_flag and "=" not in word
    return words


def _flag(word: str) -> str:
    """Return the flag of a word such as `--batch_size=8`, in its usual spelling `--batch-size`."""
    return word.partition("=")[0].replace("_", "-")
