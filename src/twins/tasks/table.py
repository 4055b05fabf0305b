"""The tasks that runs know, by name."""

from __future__ import annotations

from twins.errors import NotFoundError, nearest
from twins.tasks.classification.spec import ClassificationKit
from twins.tasks.contract import Kit
from twins.tasks.detection.spec import DetectionKit
from twins.tasks.semantic.spec import SemanticKit

KITS: dict[str, Kit] = {
    "classification": ClassificationKit(),
    "semantic": SemanticKit(),
    "detection": DetectionKit(),
    "instance": DetectionKit(masks=True),
}


def kit_of(task: str) -> Kit:
    """Return a task's parts.

    Raises:
        NotFoundError: no task is called so; the message offers the nearest names.
    """
    if task in KITS:
        return KITS[task]
    hint = nearest(task, KITS) or f"; the tasks are {', '.join(KITS)}"
    raise NotFoundError(f"no task is called {task!r}{hint}")
