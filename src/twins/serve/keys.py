"""`Keys`: the keys that a server accepts, hashed, from a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path

from twins.errors import ConfigError, NotFoundError

log = logging.getLogger("twins.serve")


class Keys:
    """Keys from a file with one in each line; empty lines and those that begin with `#` are ignored.

    Args:
        path: the file.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it cannot be read, or holds no key.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._hashes = self._read()
        self._state = self._stat()

    def accepts(self, key: str) -> bool:
        """Return whether a key is one of the file's; the time does not depend on which."""
        self._refresh()
        found = _hash(key)
        matches = [hmac.compare_digest(found, one) for one in self._hashes]
        return any(matches)

    def _refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be used leaves the keys as they are."""
        state = self._stat()
        if state == self._state:
            return
        self._state = state
        try:
            self._hashes = self._read()
            log.info("read the keys again, found %d", len(self._hashes))
        except (ConfigError, NotFoundError) as error:
            log.error("kept the old keys: %s", error)

    def _stat(self) -> tuple[int, ...]:
        try:
            stat = os.stat(self.path)
        except OSError:
            return ()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _read(self) -> list[bytes]:
        try:
            lines = self.path.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no file of keys {self.path}; check the path") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"the file of keys {self.path} cannot be read ({error})") from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if wrong := [number for number, key in enumerate(keys, 1) if not (key.isascii() and key.isprintable())]:
            raise ConfigError(f"key {wrong[0]} of {self.path} has other characters than ASCII; headers cannot hold it")
        if not keys:
            raise ConfigError(f"the file of keys {self.path} holds none; write one in each line")
        return [_hash(key) for key in keys]


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
