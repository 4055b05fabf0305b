"""The models that a server was told to serve: their names, copies of their files, and whether these have changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from twins.backbone.config import PUBLISHED, resolve_name
from twins.errors import ConfigError, NotFoundError, WeightsError
from twins.exporting.formats import is_exported_file, read_info
from twins.files import is_invalid_path
from twins.run_folder import example_files, find_run, weights_of


@dataclass(frozen=True)
class Source:
    """A model as it was named."""

    name: str
    """Name in requests: as given in `NAME=MODEL`, else the run folder's name or the file's without its ending."""
    path: str
    """Run folder, checkpoint, exported file or published name."""

    def files(self) -> list[Path]:
        """Return the files that the model is read from; none for a published name."""
        if is_exported_file(self.path):
            path = Path(self.path)
            return [path, path.with_suffix(".bin")] if read_info(path)[0] == "openvino" else [path]
        weights = Path(weights_of(self.path))
        if not weights.is_file():
            return []
        beside = weights.with_name("config.json")  # the preprocessing of a hub's file
        return [weights, beside] if beside.is_file() else [weights]

    def examples(self) -> dict[str, Path]:
        """Return the example images of a run folder by file name, in order; nothing else has any."""
        return {path.name: path for path in example_files(Path(self.path))} if os.path.isdir(self.path) else {}

    def state(self) -> tuple[object, ...]:
        """Return what changes when a file is replaced or written; empty while a file is missing."""
        try:
            stats = [file.stat() for file in self.files()]
        except Exception:  # the file is being replaced, or damaged
            return ()
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)

    def copy(self, folder: Path) -> str:
        """Copy the files into a new folder below `folder`; return the copy's path, or a published name itself.

        All workers load the copy, so that they serve the same model while the file is replaced.

        Raises:
            WeightsError: the files cannot be read, or change meanwhile.
        """
        files, state = self.files(), self.state()
        if not files:
            return self.path
        target = Path(tempfile.mkdtemp(dir=folder))
        try:
            for file in files:
                shutil.copyfile(file, target / file.name)
            if self.state() != state:
                raise OSError("it changes meanwhile")
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
            raise WeightsError(f"{self.path} cannot be copied to {folder} ({error}); try again") from error
        return str(target / files[0].name)

    def content_hash(self, copy: str) -> str:
        """Return a short hash of the content of the model's files; empty for a published name.

        Args:
            copy: what `copy` has returned; empty if the files themselves are used.

        Raises:
            OSError: they cannot be read.
        """
        files = (
            sorted(Path(copy).parent.iterdir())
            if os.path.isfile(copy)
            else []
            if copy
            else sorted(self.files(), key=lambda path: path.name)
        )
        if not files:
            return ""
        total = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()[:8]


def parse_models(words: Iterable[str]) -> list[Source]:
    """Return the models that words name, `MODEL` or `NAME=MODEL`.

    Raises:
        ConfigError: none is named, or two have one name.
        NotFoundError: a path does not exist.
    """
    sources = [_parse(word) for word in words]
    if not sources:
        raise ConfigError("no model is named; give a run folder, a checkpoint, an exported file or a published name")
    for source in sources:
        same = [other.path for other in sources if other.name == source.name]
        if len(same) > 1:
            raise ConfigError(f"{' and '.join(same)} have the name {source.name}; give names, such as new={same[-1]}")
    return sources


def _parse(word: str) -> Source:
    name, equals, path = word.partition("=")
    if not equals or os.path.exists(word):
        name, path = _name(word), word
    if not name or not path:
        raise ConfigError(f"a model is named as MODEL or NAME=MODEL, found {word!r}")
    if "/" in name or not name.isprintable():
        raise ConfigError(
            f"the name {name!r:.80} cannot stand in an address; give another one, as in NAME={path!r:.80}"
        )
    if is_invalid_path(path):
        raise NotFoundError(f"there is no model {path!r:.80}; check the path")
    if not os.path.exists(path) and path not in {variant.hub for variant in PUBLISHED.values()}:
        if os.sep in path:
            raise NotFoundError(f"there is no run folder or file {path!r:.200}; check the path")
        resolve_name(path)  # a misspelt name is answered at once
    return Source(name, path)


def _name(path: str) -> str:
    """Return the name of the run folder that a path is or is in, else of the file without its ending."""
    run = find_run(path) if os.path.exists(path) and not is_exported_file(path) else None
    if run is not None or os.path.isdir(path):
        return Path(os.path.abspath(run or path)).name
    return Path(path).stem if os.path.exists(path) else path.rpartition("/")[2]
