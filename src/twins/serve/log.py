"""The server's log: one line of JSON for each event, never with the content of an image."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

FIELDS = ("request", "method", "path", "status", "milliseconds", "bytes", "model", "images", "client", "pid")
"""Further values of an event, given as `extra`."""


class JsonLines(logging.Formatter):
    """Formats events as JSON: `time` (UTC), `level`, `message`, and what is known of `FIELDS`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as one line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values: dict[str, Any] = {"time": f"{moment}.{record.msecs:03.0f}Z", "level": record.levelname.lower()}
        values |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        values["message"] = record.getMessage()
        if record.exc_info:
            values["error"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)


def set_up(*, quiet: bool) -> None:
    """Write the server's and uvicorn's events to standard error; with `quiet` errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, lowest in (("twins.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.ERROR if quiet else lowest)
