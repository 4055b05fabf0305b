"""Semantic segmentation, as plain data."""

from __future__ import annotations

from twins.preprocess import Preprocess
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts

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
            params={
                "twins_pcpvt_base": 47_581_078,
                "twins_pcpvt_large": 64_742_294,
                "twins_pcpvt_nano": 3_043_958,
                "twins_pcpvt_small": 27_858_838,
                "twins_svt_base": 59_676_438,
                "twins_svt_large": 102_744_214,
                "twins_svt_nano": 2_764_950,
                "twins_svt_small": 27_798_934,
            },
            published_millions={
                "twins_pcpvt_base": 48.1,
                "twins_pcpvt_large": 65.3,
                "twins_pcpvt_small": 28.4,
                "twins_svt_base": 60.4,
                "twins_svt_large": 103.7,
                "twins_svt_small": 28.3,
            },
        ),
        "upernet": HeadFacts(
            title="UPerNet with auxiliary head",
            classifier=_CLASSIFIER,
            dims=4,
            marker="decode_head.psp_modules.",
            width_key="decode_head.bottleneck.conv.weight",
            width=512,
            params={
                "twins_pcpvt_base": 73_802_284,
                "twins_pcpvt_large": 90_963_500,
                "twins_pcpvt_nano": 3_444_492,
                "twins_pcpvt_small": 54_080_044,
                "twins_svt_base": 87_724_460,
                "twins_svt_large": 132_782_892,
                "twins_svt_nano": 3_165_484,
                "twins_svt_small": 53_856_300,
            },
            published_millions={
                "twins_pcpvt_base": 74.3,
                "twins_pcpvt_large": 91.5,
                "twins_pcpvt_small": 54.6,
                "twins_svt_base": 88.5,
                "twins_svt_large": 133.0,
                "twins_svt_small": 54.4,
            },
        ),
    },
    num_classes=150,
    class_table="ade20k",
    preprocess=Preprocess(size=512, fit="keep", longest=2048, interpolation="bilinear"),
    monitor="miou",
    metrics={"miou": "mean IoU", "pixel_accuracy": "pixel accuracy", "boundary_f1": "boundary F1"},
    holds=("label_map",),
    settings=("masks", "semantic", "class_weights"),
    network_settings=("drop_rate", "norm"),
    drop_rate=0.1,
    stage_norms=True,
    nano_width=64,
    inference=True,
    bench_size="512",
    demo=DemoFacts(
        data="scenes",
        begins="learning where digits are on 2,000 scenes, for three minutes; 200 others are held out to measure",
        metric="miou",
    ),
)
