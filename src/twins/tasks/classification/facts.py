"""Facts of image classification: heads, classes, preprocessing, metrics and settings."""

from __future__ import annotations

from twins.preprocess import Preprocess
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts, by_model

FACTS = TaskFacts(
    title="Image classification",
    heads={
        None: HeadFacts(
            title="linear classifier",
            classifier="head.weight",
            dims=2,
            params=by_model(
                43_828_456, 60_989_672, 3_016_008, 24_106_216, 56_070_952, 99_271_400, 2_736_040, 24_060_776
            ),
            gmacs=by_model(
                (6.652933888, 6.436574976),
                (9.807524096, 9.49650816),
                (0.458902272, 0.422022912),
                (3.809459968, 3.666859776),
                (8.56261248, 8.333960448),
                (15.11177728, 14.806907904),
                (0.363668224, 0.326788864),
                (2.927353344, 2.809339392),
            ),
        )
    },
    num_classes=1000,
    class_table="imagenet",
    preprocess=Preprocess(),
    monitor="top1",
    metrics={
        "top1": "top-1",
        "top5": "top-5",
        "mean_class_accuracy": "mean class accuracy",
        "ece": "calibration error",
    },
    prediction_fields=("labels", "scores"),
    train_settings=("augment", "crop", "fit", "class_weights"),
    network_settings=("drop_rate",),
    inference=("scales", "flip"),
    batch_size=32,
    one_shape=True,
    calibration=True,
    in_timm=True,
    demo=DemoFacts(
        data="digits",
        recipe="digits",
        intro="learning 1,438 handwritten digits; 359 others are held out to measure",
        metric="top1",
    ),
)
