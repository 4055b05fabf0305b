"""The pages that `twins VERB --help` and `--help-all` print. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from inspect import getdoc
from textwrap import wrap
from typing import Any

from twins.cli.options import Option, options_of
from twins.cli.screens import SCREENS, Screen
from twins.tasks.default_recipe import CHOSEN

_COLUMN = 24
"""Column in which the help texts of options begin."""


def print_help(verb: str, summary: str, kind: type[Any], *, everything: bool) -> None:
    """Print the first page of a verb's help, or all of its options.

    Args:
        verb: the verb.
        summary: what it does, without a full stop.
        kind: the dataclass of its options.
        everything: all options, instead of those that are used most.
    """
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    lines = list(_page(verb, summary, kind, width, everything=everything))
    in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    print("\n".join(_bold(line) if in_colour else line for line in lines))


def _page(verb: str, summary: str, kind: type[Any], width: int, *, everything: bool) -> Iterator[str]:
    options, screen = options_of(kind), SCREENS.get(verb, Screen())
    yield from wrap(f"{summary[0].upper()}{summary[1:]}.", width)
    yield from ("", f"usage: {_usage(verb, options)}")
    if screen.examples:
        yield from ("", "examples:", *_examples(screen, width))
    if everything:
        for paragraph in (getdoc(kind) or "").split("\n\n")[1:]:
            yield from ("", *wrap(_flags_in(paragraph, "", options), width))
    sections = _sections(options, screen)
    for title, members in sections if everything else sections[:1]:
        yield from ("", *wrap(f"{title}:", width))
        for option in members:
            text = option.text if everything else option.summary
            text = f"{_flags_in(text, option.settings[0], options)} {_default_of(verb, option)}"
            yield from _entry(option, text.strip(), width)
    if not everything and len(sections) > 1:
        yield from ("", f"all options: twins {verb} --help-all")


def _usage(verb: str, options: Sequence[Option]) -> str:
    """Return the words of a command: positionals and options that must be given, then `[OPTIONS]`."""
    needed = [option.value for option in options if option.positional]
    needed += [f"{option.flag} {option.value}" for option in options if _is_required(option)]
    return " ".join(["twins", verb, *needed, "[OPTIONS]"])


def _is_required(option: Option) -> bool:
    return option.default is MISSING and not option.positional


def _examples(screen: Screen, width: int) -> Iterator[str]:
    longest = max(len(command) for command, _ in screen.examples)
    for command, meaning in screen.examples:
        line = f"  {command:<{longest}}  # {meaning}"
        yield line if meaning and len(line) <= width else f"  {command}"


def _sections(options: Sequence[Option], screen: Screen) -> list[tuple[str, list[Option]]]:
    """Return the options by title: those of the first page, then those of the other groups."""
    by_setting = {option.settings[0]: option for option in options}
    first = [by_setting[name] for name in screen.first] or [option for option in options if not option.group]
    sections = {"options": [option for option in options if option.positional and option not in first] + first}
    for title, names in screen.groups.items():
        sections[title] = [by_setting[name] for name in names]
    shown = {option.settings[0] for members in sections.values() for option in members}
    for option in options:
        if option.settings[0] not in shown:
            title = re.split(r"[.;]( |$)", option.group)[0] or "Other options"
            sections.setdefault(title, []).append(option)
    return [(title, members) for title, members in sections.items() if members]


def _entry(option: Option, text: str, width: int) -> Iterator[str]:
    """Yield the lines of an option: its flag with a placeholder, and its text."""
    flags = option.value if option.positional else ", ".join(_shown_spellings(option))
    name = f"  {flags}" if option.positional else f"  {flags} {option.value}".rstrip()
    lines = wrap(text, width - _COLUMN, break_on_hyphens=False)
    if len(name) <= _COLUMN - 2:
        yield f"{name:<{_COLUMN}}{lines.pop(0) if lines else ''}".rstrip()
    else:
        yield name
    yield from (" " * _COLUMN + line for line in lines)


def _shown_spellings(option: Option) -> tuple[str, ...]:
    """Return the flags to show; of a switch, the one that changes the default."""
    return option.spellings[1:] if option.default is True else option.spellings[:1]


def _default_of(verb: str, option: Option) -> str:
    """Return the default in brackets; nothing if there is none, since the docstring then says what happens."""
    if verb == "train" and option.settings[0] in CHOSEN:
        return "(chosen from the data)"
    value = option.default
    if option.is_switch:
        return "(on by default)" if value else ""
    if value is MISSING or value is None or value in ("", ()):
        return ""
    words = value if isinstance(value, tuple) else (value,)
    return f"(default: {' '.join(f'{word:g}' if isinstance(word, float) else str(word) for word in words)})"


def _flags_in(text: str, setting: str, options: Sequence[Option]) -> str:
    """Spell settings in a docstring as flags; other words in backticks are values and stay as they are."""
    flags = {name: option.flag for option in options for name in option.settings if not option.positional}
    group = f"{setting.rpartition('.')[0]}."

    def spell(match: re.Match[str]) -> str:
        return flags.get(group + match[1]) or flags.get(match[1]) or match[0]

    return re.sub(r"`([a-z][a-z0-9_.]*)`", spell, text)


def _bold(line: str) -> str:
    """Make a heading or the flag of an option bold."""
    return re.sub(r"^(\S.*:)$|^(  (?:--|twins )\S+)", "\033[1m\\g<0>\033[0m", line)
