"""Command lines from dataclasses, through tyro; a mistake ends in one sentence."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import tyro

from twins.errors import ConfigError, nearest

T = TypeVar("T")


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
                **start,
            )
    except SystemExit as stop:
        if asked or not stop.code:
            raise
        raise ConfigError(f"{_sentence(complaint.getvalue(), verb)}; see twins {verb} --help") from None
    if unknown:
        flags = flags_of(kind, verb)
        if not unknown[0].startswith("-"):
            known = "; the data set is given with --data" if "--data" in flags else ""
            raise ConfigError(f"twins {verb} has no place for {unknown[0]!r}{known}; see twins {verb} --help")
        raise ConfigError(
            f"twins {verb} has no {unknown[0]}{nearest(unknown[0].partition('=')[0], flags)}; see twins {verb} --help"
        )
    return values


def in_flags(sentence: str, flags: Iterable[str]) -> str:
    """Return an error's sentence with settings spelled as a verb's flags.

    Below the command line a setting stands in backticks under its Python name, alone or with a value: `batch_size`,
    `optimizer.lr`, `task="semantic"`. Of these, a verb's own become `--batch-size`, `--optimizer.lr`,
    `--task semantic`; others lose their backticks.
    """
    known = set(flags)

    def spell(found: re.Match[str]) -> str:
        flag = f"--{found['name'].replace('_', '-')}"
        if flag not in known:
            return found[0].strip("`")
        return flag if found["value"] is None else f"{flag} {found['value'].strip(chr(34))}"

    return re.sub(r"`(?P<name>[a-z][a-z0-9_.]*)(?:=(?P<value>[^`]+))?`", spell, sentence)


def value_of(flag: str, arguments: list[str]) -> str | None:
    """Return what a flag is given, as `--flag value` or `--flag=value`, before the whole line is parsed."""
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


def flags_of(kind: type[object], verb: str) -> list[str]:
    """Return every flag that a verb's help lists."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(kind, prog=f"twins {verb}", args=["--help"])
    return sorted(set(re.findall(r"--[a-z][a-z0-9.\-]*", text.getvalue())))


def _sentence(text: str, verb: str) -> str:
    """Return tyro's framed complaint as one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    if "Required options" in plain:
        needed = re.findall(r"--[a-z][a-z0-9.\-]*", re.split(r"For full helptext", plain)[0])
        if needed:
            return f"twins {verb} needs {' and '.join(dict.fromkeys(needed))}"
    words = re.sub(r"[╭╮╰╯│─]+", " ", plain)
    words = re.sub(r"(Parsing error|Required options|Unrecognized options|Missing from)\s+", "", words, count=1)
    words = re.split(r"For full helptext", words)[0]
    return " ".join(words.split()).rstrip(".") or "the command line could not be read"
