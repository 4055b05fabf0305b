"""Finding weight files: local, or downloaded from the hub, with cache, hash check and offline mode."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from twins.backbone.config import PUBLISHED, resolve_name
from twins.errors import NotFoundError, WeightsError
from twins.files import first_line, sha256
from twins.weights.files import PICKLED

OFFLINE = "TWINS_OFFLINE"
"""Environment variable that forbids downloads if it is `1`; the hub client's `HF_HUB_OFFLINE` does the same."""
WEIGHT_FILE = "model.safetensors"
REACH_SECONDS = 5.0
"""Time for the hub's address to answer."""


def resolve(
    name_or_path: str | Path, *, offline: bool | None = None, on_download: Callable[[str], None] | None = None
) -> Path:
    """Return the local path of a weight file; download published weights that are not in the hub's cache.

    Args:
        name_or_path: path of a file, or any name of a published model such as `twins_svt_small` or
            `timm/twins_svt_small.in1k`.
        offline: forbid downloads; `None`: as the environment variables set it.
        on_download: called with the hub's name of the weights before the network is asked for them.

    Raises:
        NotFoundError: neither a file nor a published model.
        WeightsError: the file cannot be downloaded, or its hash is wrong.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    if _looks_like_a_path(str(name_or_path)):
        raise NotFoundError(f"there is no weight file {name_or_path}; check the path")
    if path.parent != Path() and str(name_or_path) not in {variant.hub for variant in PUBLISHED.values()}:
        raise NotFoundError(f"there is no run folder or weight file {name_or_path}; check the path")
    name = resolve_name(str(name_or_path))
    if name not in PUBLISHED:
        raise NotFoundError(f"{name} has no published weights; train it, or name one of {', '.join(PUBLISHED)}")
    return fetch(PUBLISHED[name].hub, offline=_offline() if offline is None else offline, on_download=on_download)


def fetch(repo: str, *, offline: bool = False, on_download: Callable[[str], None] | None = None) -> Path:
    """Return the cached weight file of a hub repository, with its `config.json` beside it; download missing files.

    Raises:
        WeightsError: not cached and offline, the hub cannot be reached or refuses, or the hash of the file is wrong.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    files = [try_to_load_from_cache(repo, name) for name in (WEIGHT_FILE, "config.json")]
    offline = offline or all(isinstance(file, str) for file in files)
    if not offline and on_download is not None:
        on_download(repo)
    try:
        if not offline:
            _reach_hub()
        with _silence_client():
            path = Path(hf_hub_download(repo, WEIGHT_FILE, local_files_only=offline))
            _verify(path, repo)
            hf_hub_download(repo, "config.json", local_files_only=offline)
    except WeightsError:
        raise
    except Exception as error:  # the hub's client, its transport and the disk raise different classes
        raise WeightsError(_explain(error, repo)) from error
    return path


class _Unreachable(Exception):
    """Nobody answers at the hub's address."""


def _reach_hub() -> None:
    """Raise `_Unreachable` if nobody answers at the hub's address: its client would try again for half a minute."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if not address.hostname or getproxies().keys() - {"no"}:
        return
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise _Unreachable from error


def _explain(error: Exception, repo: str) -> str:
    """Return one sentence that explains why the files of a hub repository are not available."""
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    local = isinstance(error, LocalEntryNotFoundError)
    reason = error.__cause__ or error if local else error
    if isinstance(reason, HfHubHTTPError) and not isinstance(reason, LocalEntryNotFoundError):
        details = (reason.server_message or "").strip().splitlines()
        status = ": ".join([f"HTTP {reason.response.status_code}", *details[:1]])
        return f"the hub does not give {repo} ({status}); try again later, or download the file and pass its path"
    if isinstance(reason, FileMetadataError):
        return f"the server that answers for {repo} is no hub; check HF_ENDPOINT and the proxy, or pass a file's path"
    if local or isinstance(error, OfflineModeIsEnabled | _Unreachable):
        switched_off = not isinstance(error, _Unreachable) and (
            reason is error or isinstance(reason, OfflineModeIsEnabled)
        )
        explanation = "downloads are switched off" if switched_off else "the hub cannot be reached"
        return (
            f"the weights of {repo} are not on this machine and {explanation}; "
            "connect once, or download the file elsewhere and pass its path"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"the weights of {repo} cannot be stored in the hub's cache ({error.strerror}: {error.filename}); fix it"
    return (
        f"the weights of {repo} did not arrive whole ({first_line(error)}); "
        "try again, or download the file and pass its path"
    )


@contextlib.contextmanager
def _silence_client() -> Iterator[None]:
    """Silence the log messages of the hub's client; the error contains their content."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _verify(path: Path, repo: str) -> None:
    """Compare a cached file with its SHA-256, which is its name in the cache; remove it if they differ."""
    blob = path.resolve()
    expected = blob.name
    if len(expected) != 64:  # only files of the hub's large-file storage have their SHA-256 as name
        return
    if (digest := sha256(blob)) != expected:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise WeightsError(
            f"the file of {repo} is damaged (SHA-256 {digest[:12]}..., the hub names {expected[:12]}...) "
            "and was removed; try again"
        )


def _offline() -> bool:
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in (OFFLINE, "HF_HUB_OFFLINE"))


def _looks_like_a_path(name: str) -> bool:
    return name.endswith((".safetensors", *PICKLED)) or name.startswith((".", "/", "~")) or name.count("/") > 1
