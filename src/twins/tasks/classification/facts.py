"""Image classification, as plain data."""

from __future__ import annotations

from twins.preprocess import Preprocess
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts

FACTS = TaskFacts(
    title="Image classification",
    heads={
        None: HeadFacts(
            title="linear classifier",
            classifier="head.weight",
            dims=2,
            params={
                "twins_pcpvt_base": 43_828_456,
                "twins_pcpvt_large": 60_989_672,
                "twins_pcpvt_nano": 3_016_008,
                "twins_pcpvt_small": 24_106_216,
                "twins_svt_base": 56_070_952,
                "twins_svt_large": 99_271_400,
                "twins_svt_nano": 2_736_040,
                "twins_svt_small": 24_060_776,
            },
            gmacs={
                "twins_pcpvt_base": (6.652933888, 6.436574976),
                "twins_pcpvt_large": (9.807524096, 9.49650816),
                "twins_pcpvt_nano": (0.458902272, 0.422022912),
                "twins_pcpvt_small": (3.809459968, 3.666859776),
                "twins_svt_base": (8.56261248, 8.333960448),
                "twins_svt_large": (15.11177728, 14.806907904),
                "twins_svt_nano": (0.363668224, 0.326788864),
                "twins_svt_small": (2.927353344, 2.809339392),
            },
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
    holds=("labels", "scores"),
    settings=("augment", "crop", "fit", "class_weights"),
    network_settings=("drop_rate",),
    batch_size=32,
    one_shape=True,
    in_timm=True,
    exportable=True,
    demo=DemoFacts(
        data="digits",
        begins="learning 1,438 handwritten digits; 359 others are held out to measure",
        metric="top1",
    ),
)
