"""Instance segmentation's `TaskSpec`: detection's, with masks."""

from __future__ import annotations

from twins.tasks.detection.spec import DetectionSpec

SPEC = DetectionSpec(masks=True)
