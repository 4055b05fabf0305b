"""The images of a data set by the names that lists give them: paths, names without folders, ids without endings."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from twins.data.base import UNSPLIT
from twins.data.formats.names import FoundFiles, match_names, with_slashes
from twins.data.images import is_image_file, list_images
from twins.data.parts import part_of
from twins.errors import DataError


class ImageIndex:
    """All images below a folder, found by name.

    Args:
        root: the data folder.
        base: the folder of the images, in it.
    """

    def __init__(self, root: Path, base: Path) -> None:
        self.root, self.paths = root, list_images(base)
        self.base = _inside(base, root)
        self.files = {_inside(path, root): path for path in self.paths}
        self._stems, self._last = _group(self.files, _stem), _group(self.files, posixpath.basename)
        self._last_stems = _group(self.files, lambda file: posixpath.basename(_stem(file)))

    def flat_images(self, part: str | None) -> list[str]:
        """Return the images directly in the folder of a part, or in the only folder with images, sorted."""
        folders = _group(self.files, posixpath.dirname)
        named = [folder for folder in folders if part and folder_part(folder) == part]
        chosen = named if len(named) == 1 else list(folders)
        return sorted(folders[chosen[0]]) if len(chosen) == 1 else []

    def find(self, names: Sequence[str], folder: str, part: str, source: Path) -> FoundFiles:
        """Find the images of names.

        Args:
            names: paths, with or without the image's ending and folders.
            folder: where the list is, relative to the data folder.
            part: the part that the list is of.
            source: the list, for messages.

        Returns:
            the path of each name that has an image, and the matches that are spelled otherwise.

        Raises:
            DataError: a name can mean several images.
        """
        bases = [folder, self.base, ".", *self._part_folders(part)]
        files = {name: file for name in dict.fromkeys(names) if (file := self._find(name, bases, part, source))}
        taken, missing = set(files.values()), [name for name in dict.fromkeys(names) if name not in files]
        free = {file: file for file in self.files if file not in taken}
        free_stems = {_stem(file): file for file in free if len(self._stems[_stem(file)]) == 1}
        with_ending = [name for name in missing if is_image_file(Path(with_slashes(name)))]
        matches = match_names(with_ending, free)
        stems = match_names([name for name in missing if name not in set(with_ending)], free_stems)
        matches |= {name: match._replace(file=free_stems[match.file]) for name, match in stems.items()}
        files |= {name: match.file for name, match in matches.items()}
        spelled = {name: match for name, match in matches.items() if match.spelling not in ("folders", "separators")}
        return _Found({name: self.files[file] for name, file in files.items()}, spelled)

    def _part_folders(self, part: str) -> list[str]:
        """Return the outermost folders of a part."""
        if part == UNSPLIT:
            return []
        folders = {parent for file in self.files for parent in _parents(file) if part_of(parent.name) == part}
        return sorted(map(str, folders), key=lambda name: (name.count("/"), name))

    def _find(self, name: str, bases: Iterable[str], part: str, source: Path) -> str | None:
        """Return the image of a name as written: below one of the folders, or anywhere if it has no folders."""
        clean = with_slashes(name)
        for base in bases:
            file = posixpath.normpath(posixpath.join(base, clean))
            if file in self.files:
                return file
            if candidates := self._stems.get(file):
                return _only(candidates, name, source)
        if "/" in clean:
            return None
        candidates = self._last.get(clean) or self._last_stems.get(clean) or []
        same = [file for file in candidates if folder_part(posixpath.dirname(file)) == part]
        return _only(same or candidates, name, source)


class _Found(FoundFiles):
    """Found files whose note is on those that are spelled otherwise only."""

    def note(self, source: str) -> list[str]:
        return FoundFiles({name: self.paths[name] for name in self.matches}, self.matches).note(source)


def folder_part(folder: str) -> str | None:
    """Return the part that the outermost folder of a path with a part's name says."""
    return next((part for name in PurePosixPath(with_slashes(folder)).parts if (part := part_of(name))), None)


def _only(candidates: Sequence[str], name: str, source: Path) -> str | None:
    if len(candidates) > 1:
        raise DataError(
            f"{source} names {name:.100}, and {candidates[0]} and {candidates[1]} could both be meant; write the whole "
            'path, or give the folder of its images as `layout.images="..."`'
        )
    return candidates[0] if candidates else None


def _parents(file: str) -> list[PurePosixPath]:
    return list(PurePosixPath(file).parents)[:-1]


def _inside(path: Path, root: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _stem(file: str) -> str:
    return posixpath.splitext(file)[0]


def _group(files: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return dict(groups)
