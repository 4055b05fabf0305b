"""The names in a run folder, and which of its files hold the network.

```
config.yaml         the settings, fully resolved
metrics.jsonl       a row per logged step and per evaluation
log.txt             what the run said, with the time
best.safetensors    the best weights; with an EMA the averaged ones
states/             whole states, of which the newest is kept
last/               a link to the newest: model.safetensors, the current weights, and state.pt, all else
eval.json           the final evaluation of the best weights
report.html         the report
```
"""

from __future__ import annotations

import os
from pathlib import Path

from twins.errors import NotFoundError
from twins.files import path_of

CONFIG, METRICS, LOG = "config.yaml", "metrics.jsonl", "log.txt"
BEST, LAST, STATES = "best.safetensors", "last", "states"
WEIGHTS, STATE = "model.safetensors", "state.pt"
RESULT, REPORT = "eval.json", "report.html"
LAST_WEIGHTS = f"{LAST}/{WEIGHTS}"
_KEPT = (BEST, LAST_WEIGHTS, CONFIG, METRICS, LOG, REPORT)
"""What no result may take the place of."""


def weights_of(path_or_name: str | Path) -> str | Path:
    """Return a run folder's best weights, or its newest; anything else as it is.

    Raises:
        NotFoundError: a folder that holds no weights, or a path that no file can have.
    """
    folder = path_of(path_or_name, "run folder or weight file")
    if not os.path.isdir(folder):
        return path_or_name
    for name in (BEST, LAST_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise NotFoundError(
        f"the folder {folder} holds no {BEST}; name a run folder whose training got that far, or a file"
    )


def parts_of(path_or_name: str | Path) -> list[tuple[str, str | Path]]:
    """Return the files that a network is read from, or was written with, each after what to call it."""
    if not os.path.isdir(path_or_name):
        return [("the network's weights", path_or_name)]
    return [(f"the run's {name}", Path(path_or_name) / name) for name in _KEPT]
