"""`twins completion`: print a script that completes verbs, flags, choices, names and files in a shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import chain
from shlex import quote
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from twins.backbone.config import list_models
from twins.cli.main import VERBS
from twins.cli.options import Option, options_of
from twins.cli.parse import parse
from twins.data.config import EMBEDDED
from twins.tasks.recipes import all_recipes
from twins.tasks.table import TASKS, facts_of


@dataclass(frozen=True, kw_only=True)
class CompletionArgs:
    """Print a script that completes verbs, flags, choices, names and files.

    The script starts no Python, so each press of the TAB key is fast. Print it again after an update of twins.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional, arg(metavar="bash|zsh|fish")]
    """Shell that reads the script."""


ARGS = CompletionArgs
_GLOBAL = {"--help": "examples and options that are used most", "--help-all": "all options"}
_FILES = ("FILE", "DIR", "DATA", "RUN", "PATH", "MODEL", "IMAGE", "IN", "OUT")
"""Words of a placeholder whose value is a path."""


def run(arguments: list[str]) -> int:
    """Print the script."""
    args = parse(CompletionArgs, "completion", arguments)
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    print("\n".join(scripts[args.shell]()))
    return 0


@cache
def _options(verb: str) -> list[Option]:
    return options_of(import_module(f"twins.cli.{verb}").ARGS)


def _flags(verb: str) -> dict[str, str]:
    """Return a verb's flags with their help."""
    flags = [option for option in _options(verb) if not option.positional]
    return {spelling: option.summary for option in flags for spelling in option.spellings} | _GLOBAL


def _words(option: Option) -> tuple[str, ...]:
    """Return the words to offer as values of an option, besides files."""
    models, recipes = tuple(list_models()), tuple(all_recipes())
    names: dict[str, tuple[str, ...]] = {
        "task": tuple(TASKS),
        "head": tuple(head for task in TASKS for head in facts_of(task).heads if head),
        "recipe": recipes,
        "words": recipes,
        "data": EMBEDDED,
        "model": models,
        "models": models,
        "weights": ("auto", "none", *models),
    }
    return option.choices or names.get(option.settings[0]) or _choices_in(option.value)


def _choices_in(value: str) -> tuple[str, ...]:
    """Return the words of a placeholder such as `N|dynamic` that are meant as typed."""
    return tuple(word for word in value.strip("[.]").split("|") if "|" in value and word.islower())


def _takes_files(option: Option) -> bool:
    return not option.is_switch and bool({*re.split(r"\W+", option.value)} & {*_FILES} or "images" in option.settings)


def _positionals(verb: str) -> tuple[tuple[str, ...], bool]:
    """Return the words to offer where no flag is, and whether files are."""
    options = [option for option in _options(verb) if option.positional]
    return tuple(chain(*map(_words, options))), any(map(_takes_files, options))


def _bash() -> Iterator[str]:
    """Yield the lines of bash's script, which the bash 3.2 of macOS runs too."""
    yield from (
        "# Completion of twins for bash, written by: twins completion bash",
        "_twins() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}"',
        '    local words="" files=""',
        '    [[ $cur == "=" ]] && cur=""',
        '    [[ $prev == "=" ]] && prev="${COMP_WORDS[COMP_CWORD-2]}"',
        "    if (( COMP_CWORD == 1 )); then",
        f'        words="{" ".join(VERBS)} --help --version"',
        "    else",
        '        case "$verb $prev $cur" in',
    )
    for verb in VERBS:
        for option in _options(verb):
            if not option.positional and not option.is_switch:
                yield _bash_case(quote(f"{verb} {option.flag} ") + "*", _words(option), files=_takes_files(option))
        words, files = _positionals(verb)
        yield _bash_case(f"'{verb} '*' -'*", tuple(_flags(verb)))
        yield _bash_case(f"'{verb} '*", words, files=files)
    yield from (
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "    if [[ $files ]]; then",
        "        local IFS=$'\\n'",
        '        COMPREPLY+=($(compgen -f -- "$cur"))',
        "        type compopt >/dev/null 2>&1 && compopt -o filenames",
        "    fi",
        "}",
        "complete -F _twins twins",
    )


def _bash_case(pattern: str, words: tuple[str, ...], *, files: bool = False) -> str:
    return f"        {pattern}) words={quote(' '.join(words))}{' files=1' if files else ''} ;;"


def _zsh() -> Iterator[str]:
    """Yield the lines of zsh's script, for a folder in `fpath` or for `source`."""
    yield from ("#compdef twins", "# Completion of twins for zsh, written by: twins completion zsh")
    yield from ('_twins_or_files() { compadd -- "$@"; _files }', "_twins() {")
    verbs = " ".join(quote(f"{verb}:{summary}") for verb, summary in VERBS.items())
    yield from (
        f"    local -a verbs=({verbs})",
        "    if (( CURRENT == 2 )); then _describe verb verbs; return; fi",
        "    local verb=$words[2]",
        "    shift words; (( CURRENT-- ))",
        "    case $verb in",
    )
    for verb in VERBS:
        yield f"    {verb}) _arguments \\"
        for option in _options(verb):
            for spelling in option.spellings:
                yield f"        {quote(_zsh_option(option, spelling))} \\"
        yield from (f"        {quote(f'{flag}[{text}]')} \\" for flag, text in _GLOBAL.items())
        yield "        ;;"
    yield from ("    esac", "}", 'if [[ $funcstack[1] == _twins ]]; then _twins "$@"; else compdef _twins twins; fi')


def _zsh_option(option: Option, spelling: str) -> str:
    """Return what `_arguments` is told of an option: its flag, its help, and each of its values."""
    words, value = " ".join(_words(option)), re.sub(r"[:\[\]]", "", option.value)
    files = " _twins_or_files " if words else "_files"
    action = f"{files}{words}" if _takes_files(option) else f"({words or ' '})"
    repeated = "*" if option.count is None else ""
    if option.positional:
        return f"{repeated}:{value}:{action}"
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.summary)
    return f"{repeated}{spelling}[{text}]" + f":{value}:{action}" * (1 if option.count is None else option.count)


def _fish() -> Iterator[str]:
    """Yield the lines of fish's script."""
    yield "# Completion of twins for fish, written by: twins completion fish"
    yield "complete -c twins -f"
    for verb, summary in VERBS.items():
        yield f"complete -c twins -n __fish_use_subcommand -a {verb} -d {quote(summary)}"
    yield from (
        "complete -c twins -n __fish_use_subcommand -l version",
        "complete -c twins -n __fish_use_subcommand -l help",
    )
    for verb in VERBS:
        seen = f"complete -c twins -n '__fish_seen_subcommand_from {verb}'"
        words, files = _positionals(verb)
        if words or files:
            yield f"{seen}{' -F' if files else ''} -a {quote(' '.join(words))}"
        for option in _options(verb):
            value = f" -r {'-F' if _takes_files(option) else '-f'} -a {quote(' '.join(_words(option)))}"
            for spelling in () if option.positional else option.spellings:
                flag = f"{spelling.removeprefix('--')}{'' if option.is_switch else value}"
                yield f"{seen} -l {flag} -d {quote(option.summary)}"
        yield from (f"{seen} -l {flag.removeprefix('--')} -d {quote(text)}" for flag, text in _GLOBAL.items())
