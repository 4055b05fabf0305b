"""Instance segmentation's part of an export: detection's, with masks."""

from __future__ import annotations

from twins.tasks.detection.exports import EXPORT

__all__ = ["EXPORT"]
