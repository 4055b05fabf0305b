"""Numbers beside the truth."""

from __future__ import annotations

from twins.charts import picture
from twins.drawing import thumbnail


def sections(result, examples, explain):
    """Return the pictures with both numbers, and where attention looks in the first."""
    seen = list(examples)
    pictures = [picture(thumbnail(s.image), f"{s.prediction.scores[0]:.2f}, is {float(s.target):.2f}") for s in seen]
    return [f"<h2>Brightness</h2>{''.join(pictures)}", explain([(seen[0].image, "the first")])]
