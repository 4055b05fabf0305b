"""Files by the names that lists and annotations give them, also where these are spelled in another way.

Names that are written on another system differ from those on disk: backslashes separate their folders, accents are
composed or decomposed (Unicode's NFC and NFD), upper and lower case are one, or folders in front have gone. Such a name
finds its file only where no other name and no other file can be meant.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from twins.data.images import is_image_file, walk
from twins.data.parts import part_of
from twins.errors import DataError, number_of


class Match(NamedTuple):
    """A file that is meant by a name in another spelling."""

    file: str
    """The name of the file."""
    spelling: str
    """What is spelled in another way."""


@dataclass(frozen=True)
class FoundFiles:
    """The files of names that differ from the names on disk."""

    paths: Mapping[str, Path] = field(default_factory=dict)
    """Path by name; names that are on disk as written, and those of no file, are not in it."""
    matches: Mapping[str, Match] = field(default_factory=dict)
    """How they were found."""

    def note(self, source: str) -> list[str]:
        """Return a sentence that counts the names and shows the first; `source` says where they are written."""
        if not self.paths:
            return []
        first, path = next(iter(self.paths.items()))
        spellings = Counter(match.spelling for match in self.matches.values())
        kinds = ", ".join(f"{kind} ({count})" for kind, count in spellings.items())
        count = number_of(len(self.paths), "name")
        return [f"{source}: {count} found although spelled otherwise, in {kinds}; {first!r:.100} is {path}"]


def find_files(
    names: Sequence[str], folder: Path, *, search: Path | None = None, by_last_part: bool = True
) -> FoundFiles:
    """Find the files of names that are not in a folder as written.

    Args:
        names: paths relative to `folder`, or absolute.
        folder: where the names begin.
        search: the folder below which other spellings are looked for; by default `folder`.
        by_last_part: whether a name also finds a file in another folder, as in `match_names`.
    """
    listings: dict[str, frozenset[str]] = {}

    def is_there(name: str) -> bool:
        parent, last = os.path.split(os.path.join(folder, name))
        if parent not in listings:
            listings[parent] = _list(parent)
        return last in listings[parent]

    there: dict[str, bool] = {name: is_there(name) for name in names}
    if all(there.values()):
        return FoundFiles()
    base = search or folder
    taken = {os.path.normpath(os.path.join(folder, name)) for name, exists in there.items() if exists}
    free = [file for file in walk(base, hidden=False) if os.path.normpath(os.path.join(base, file)) not in taken]
    matches = match_names([name for name, exists in there.items() if not exists], free, by_last_part=by_last_part)
    return FoundFiles({name: base / match.file for name, match in matches.items()}, matches)


def match_names(names: Iterable[str], files: Iterable[str], *, by_last_part: bool = True) -> dict[str, Match]:
    """Match names with files that are spelled in another way; each file belongs to one name at most.

    Args:
        names: names that no file has as written.
        files: files that no name means as written, with `/` between folders.
        by_last_part: whether a name also finds a file in another folder, the one with the most folders in common.

    Returns:
        the match by name.
    """
    remaining, free = dict.fromkeys(names), dict.fromkeys(files)
    matches: dict[str, Match] = {}
    for kind, key, last_part in _SPELLINGS:
        if last_part and not by_last_part:
            continue
        pairs = list((_equal_last_parts if last_part else _equal_keys)(remaining, free, key))
        for name, file in pairs:
            matches[name] = Match(file, kind)
            del remaining[name], free[file]
    return matches


def find_listed(lines: Sequence[str], path: Path, known: Set[str]) -> tuple[list[str], list[str]]:
    """Return the names in the lines of a list such as VOC's, without endings, each optionally before a flag.

    A line is the whole name if a file has it, since names may hold spaces; else its first word.

    Args:
        lines: the lines, as `read_list` returns them.
        path: the list, for messages.
        known: names of files without their endings.

    Returns:
        a name for each line, also where no file has it; and a note if names are spelled in another way.
    """
    as_written = {line: name for line in lines for name in _readings(line) if name in known}  # the last one wins
    matches: dict[str, Match] = {}
    for reading in (-2, -1, 0):
        free = known - set(as_written.values()) - {match.file for match in matches.values()}
        missing = {_readings(line)[reading]: line for line in lines if line not in as_written and line not in matches}
        matches |= {missing[name]: match for name, match in match_names(missing, sorted(free)).items()}
    names = as_written | {line: match.file for line, match in matches.items()}
    found = FoundFiles({line: Path(match.file) for line, match in matches.items()}, matches)
    return [names.get(line, line.split()[0]) for line in lines], found.note(str(path))


def _readings(line: str) -> list[str]:
    """Return what the name in a line may be, the likeliest last: its first word or all of it, without an ending."""
    return [reading for text in (line.split()[0], line) for reading in (_without_ending(text), text)]


def match_stems(stems: Iterable[str], files: Mapping[str, Path]) -> FoundFiles:
    """Find the files of names without endings that are spelled in another way; `files` are all files by theirs."""
    names = set(stems)
    matches = match_names(sorted(names - files.keys()), sorted(files.keys() - names), by_last_part=False)
    return FoundFiles({name: files[match.file] for name, match in matches.items()}, matches)


def read_list(path: Path) -> list[str]:
    """Return the lines of a list of names, without empty ones and spaces around them.

    The text is UTF-8, or UTF-16 with its byte order mark.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = data.decode(encoding, errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _without_ending(name: str) -> str:
    path = Path(with_slashes(name))
    return str(path.with_suffix("")) if is_image_file(path) or path.suffix.lower() == ".xml" else name


def with_slashes(name: str) -> str:
    """Return a name with `/` between its folders, whatever the system it comes from."""
    return posixpath.normpath(name.replace("\\", "/"))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", with_slashes(name))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", _composed(name).casefold())


def _decoded(name: str) -> str:
    return _composed(unquote(name))


_SPELLINGS: tuple[tuple[str, Callable[[str], str], bool], ...] = (
    ("separators", with_slashes, False),
    ("Unicode form", _composed, False),
    ("percent-encoding", _decoded, False),
    ("folders", _composed, True),
    ("case", _folded, False),
    ("case and folders", _folded, True),
)
"""What may differ, in the order in which it is tried: the key that must be equal, and whether only its last part."""


def _equal_keys(names: Iterable[str], files: Iterable[str], key: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Yield the names and files of which a single one each has a key."""
    files_of, names_of = _by_key(files, key), _by_key(names, key)
    for value, group in names_of.items():
        if len(group) == 1 and len(files_of.get(value, ())) == 1:
            yield group[0], files_of[value][0]


def _equal_last_parts(
    names: Iterable[str], files: Iterable[str], key: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    """Yield the names and files with the same last part, where one file has most folders in common with the name."""
    files_of = _by_key(files, lambda file: posixpath.basename(key(file)))
    names_of: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if file := _nearest_file(key(name), files_of.get(posixpath.basename(key(name)), ()), key):
            names_of[file].append(name)
    yield from ((group[0], file) for file, group in names_of.items() if len(group) == 1)


def _nearest_file(name: str, files: Sequence[str], key: Callable[[str], str]) -> str | None:
    """Return the file with most folders in common at the end of the path; `None` if there are several or it is of
    another part of the data set.
    """
    common = {file: _common_folders(name, key(file)) for file in files}
    most = max(common.values(), default=0)
    best = [file for file, count in common.items() if count == most]
    if len(best) != 1:
        return None
    parts = _parts_of(name), _parts_of(best[0])
    return None if all(parts) and parts[0] != parts[1] else best[0]


def _common_folders(name: str, file: str) -> int:
    """Return how many parts at the end of two paths are equal."""
    pairs = zip(reversed(name.split("/")), reversed(file.split("/")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _parts_of(name: str) -> set[str | None]:
    """Return which parts of a data set a path's folders name."""
    return {part_of(folder) for folder in name.split("/")[:-1]} - {None}


def _by_key(items: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _list(folder: str) -> frozenset[str]:
    """Return the names in a folder; none if it does not exist or its path is not valid."""
    try:
        return frozenset(os.listdir(folder or "."))
    except (OSError, ValueError):
        return frozenset()
