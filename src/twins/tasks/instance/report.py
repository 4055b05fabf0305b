"""Report sections of instance segmentation: detection's, which show masks if there are any."""

from __future__ import annotations

from twins.tasks.detection.report import demo_picture, sections, training_sections

__all__ = ["demo_picture", "sections", "training_sections"]
