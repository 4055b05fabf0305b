"""Facts of an image regression task: the brightness of an image, 0..1."""

from __future__ import annotations

from twins.preprocess import Preprocess
from twins.tasks.facts import HeadFacts, TaskFacts

FACTS = TaskFacts(
    title="Brightness",
    heads={None: HeadFacts(title="linear regression", classifier="regressor.weight", dims=2)},
    num_classes=1,
    class_table=None,
    preprocess=Preprocess(size=64, fit="squash"),
    monitor="near",
    metrics={"near": "within a tenth"},
    prediction_fields=("labels", "scores"),
    batch_size=8,
    one_shape=True,
)
