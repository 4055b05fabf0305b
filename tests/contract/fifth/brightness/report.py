"""The section of the report: predictions beside the ground truth."""

from __future__ import annotations

from twins.charts import picture
from twins.drawing import thumbnail


def sections(result, examples, explain):
    """Return all images with prediction and target, and the attention in the first one."""
    shown = list(examples)
    pictures = [picture(thumbnail(x.image), f"{x.prediction.scores[0]:.2f}, is {float(x.target):.2f}") for x in shown]
    return [f"<h2>Brightness</h2>{''.join(pictures)}", explain([(shown[0].image, "the first")])]
