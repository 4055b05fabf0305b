"""Instance segmentation's part of a report: detection's, which shows masks where there are any."""

from __future__ import annotations

from twins.tasks.detection.report import demo_picture, sections

__all__ = ["demo_picture", "sections"]
