"""Facts of semantic segmentation: heads, classes, preprocessing, metrics and settings."""

from __future__ import annotations

from twins.preprocess import Preprocess
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts, by_model, by_published_model

_CLASSIFIER = "decode_head.conv_seg.weight"

FACTS = TaskFacts(
    title="Semantic segmentation",
    heads={
        "semantic_fpn": HeadFacts(
            title="Semantic FPN",
            classifier=_CLASSIFIER,
            dims=4,
            width_key="neck.lateral_convs.0.conv.weight",
            width=256,
            params=by_model(
                47_581_078, 64_742_294, 3_043_958, 27_858_838, 59_676_438, 102_744_214, 2_764_950, 27_798_934
            ),
            published_millions=by_published_model(48.1, 65.3, 28.4, 60.4, 103.7, 28.3),
        ),
        "upernet": HeadFacts(
            title="UPerNet with auxiliary head",
            classifier=_CLASSIFIER,
            dims=4,
            marker="decode_head.psp_modules.",
            pools=True,
            width_key="decode_head.bottleneck.conv.weight",
            width=512,
            params=by_model(
                73_802_284, 90_963_500, 3_444_492, 54_080_044, 87_724_460, 132_782_892, 3_165_484, 53_856_300
            ),
            published_millions=by_published_model(74.3, 91.5, 54.6, 88.5, 133.0, 54.4),
        ),
    },
    num_classes=150,
    class_table="ade20k",
    preprocess=Preprocess(size=512, fit="keep", longest=2048, interpolation="bilinear"),
    monitor="miou",
    detail=1,
    metrics={"miou": "mean IoU", "pixel_accuracy": "pixel accuracy", "boundary_f1": "boundary F1"},
    prediction_fields=("label_map",),
    train_settings=("masks", "semantic", "class_weights"),
    network_settings=("drop_rate", "norm"),
    drop_rate=0.1,
    stage_norms=True,
    nano_width=64,
    inference=("scales", "flip", "window", "stride", "tile", "overlap"),
    bench_size="512",
    demo=DemoFacts(
        data="scenes",
        recipe="scenes",
        intro="learning where digits are on 2,000 scenes, for three minutes; 200 others are held out to measure",
        metric="miou",
    ),
)
