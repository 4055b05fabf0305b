"""Names of the files in a run folder, and which of them hold the network.

```
config.yaml         the resolved settings
data.json           the reading plan: what was read of the data, and what was passed over
metrics.jsonl       a row per logged step and per evaluation
log.txt             messages of the run, with the time
best.safetensors    the best weights; with an EMA, those of the EMA
states/             the newest whole state
last/               a link to it: model.safetensors, the current weights, and state.pt, everything else
eval.json           the final evaluation of the best weights
report.html         the report; during the training, its progress
examples/           up to eight held-out images, which a server offers to try the network
tensorboard/, wandb/, mlflow.db, mlflow/   what the trackers write
```
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from twins.errors import NotFoundError
from twins.files import path_of

CONFIG, METRICS, LOG = "config.yaml", "metrics.jsonl", "log.txt"
BEST, LAST, STATES = "best.safetensors", "last", "states"
WEIGHTS, STATE = "model.safetensors", "state.pt"
RESULT, REPORT, DATA = "eval.json", "report.html", "data.json"
EXAMPLES = "examples"
LARGEST_EXAMPLE = 16 << 20
"""Bytes of an example image that is shown; those that a run writes have a few million pixels."""
_EXAMPLE = re.compile(r"[0-9]{2}\.(png|jpg)")
LAST_WEIGHTS = f"{LAST}/{WEIGHTS}"
_PROTECTED = (BEST, LAST_WEIGHTS, CONFIG, METRICS, LOG, REPORT, DATA)
"""Files that no output may replace."""


def weights_of(path_or_name: str | Path) -> str | Path:
    """Return the best weights of a run folder, else its newest; a path of a file or a name is returned unchanged.

    Raises:
        NotFoundError: the folder holds no weights, or the path is not valid.
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


def example_files(run: Path) -> list[Path]:
    """Return the example images of a run folder, `01.png`, `02.jpg` and so on, in order.

    Links, and what is empty or larger than any that a run writes, are left out.
    """
    folder = run / EXAMPLES
    try:
        files = [] if folder.is_symlink() else [path for path in folder.iterdir() if _EXAMPLE.fullmatch(path.name)]
        return sorted(
            path
            for path in files
            if path.is_file() and not path.is_symlink() and 0 < path.stat().st_size <= LARGEST_EXAMPLE
        )
    except OSError:  # there are none, or they are written anew
        return []


def find_run(path_or_name: str | Path) -> Path | None:
    """Return the run folder that a path is, or that a weight file is in; `None` if it is of no run."""
    path = Path(path_or_name)
    if os.path.isdir(path):
        return path if (path / CONFIG).is_file() else None
    file = Path(os.path.abspath(path))
    for folder in file.parents[:3]:
        inside = file.relative_to(folder).parts
        is_state = len(inside) == 3 and (inside[0], inside[2]) == (STATES, WEIGHTS)
        is_weights = is_state or inside in ((BEST,), (LAST, WEIGHTS))
        if is_weights and all((folder / name).is_file() for name in (CONFIG, METRICS)):
            return folder
    return None


def weights_note(run: str | Path, *, averaged: bool) -> str:
    """Return a sentence that says which weights of a run folder `weights_of` returns.

    Args:
        run: the folder.
        averaged: whether the run has an EMA, which `best.safetensors` then holds.
    """
    if Path(weights_of(run)).name == BEST:
        return f"the best weights of {run} are used, {BEST}" + (", an average over training steps" if averaged else "")
    return f"{run} holds no {BEST} yet; its newest weights are used, {LAST_WEIGHTS}" + (
        ", not their average" if averaged else ""
    )


def parts_of(path_or_name: str | Path) -> list[tuple[str, str | Path]]:
    """Return the files of a network that no output may replace, each as (description, path)."""
    if not os.path.isdir(path_or_name):
        return [("the network's weights", path_or_name)]
    return [(f"the run's {name}", Path(path_or_name) / name) for name in _PROTECTED]
