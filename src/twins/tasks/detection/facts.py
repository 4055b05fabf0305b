"""Object detection, as plain data."""

from __future__ import annotations

from twins.preprocess import Preprocess
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts

_SIZES = {"": "", "50": "50", "75": "75", "_small": ", small", "_medium": ", medium", "_large": ", large"}
BOX_METRICS = {f"box_ap{size}": f"box AP{title}" for size, title in _SIZES.items()}
MASK_METRICS = {f"mask_ap{size}": f"mask AP{title}" for size, title in _SIZES.items()}
PREPROCESS = Preprocess(size=800, fit="keep", longest=1333, interpolation="bilinear")
LATERAL = "neck.lateral_convs.0.conv.weight"

FACTS = TaskFacts(
    title="Object detection",
    heads={
        "retinanet": HeadFacts(
            title="RetinaNet",
            classifier="bbox_head.retina_cls.weight",
            dims=4,
            anchors=9,
            width_key=LATERAL,
            width=256,
            params={
                "twins_pcpvt_base": 53_564_404,
                "twins_pcpvt_large": 70_725_620,
                "twins_pcpvt_nano": 3_814_228,
                "twins_pcpvt_small": 33_842_164,
                "twins_svt_base": 66_241_396,
                "twins_svt_large": 109_890_804,
                "twins_svt_nano": 3_535_220,
                "twins_svt_small": 33_782_260,
            },
            published_millions={
                "twins_pcpvt_base": 54.1,
                "twins_pcpvt_large": 71.2,
                "twins_pcpvt_small": 34.4,
                "twins_svt_base": 67.0,
                "twins_svt_large": 110.9,
                "twins_svt_small": 34.3,
            },
        ),
        "faster_rcnn": HeadFacts(
            title="Faster R-CNN",
            classifier="roi_head.bbox_head.fc_cls.weight",
            dims=2,
            background=1,
            width_key=LATERAL,
            width=256,
            params={
                "twins_pcpvt_base": 60_842_660,
                "twins_pcpvt_large": 78_003_876,
                "twins_pcpvt_nano": 3_948_036,
                "twins_pcpvt_small": 41_120_420,
                "twins_svt_base": 72_938_020,
                "twins_svt_large": 116_005_796,
                "twins_svt_nano": 3_669_028,
                "twins_svt_small": 41_060_516,
            },
        ),
    },
    num_classes=80,
    class_table="coco",
    preprocess=PREPROCESS,
    monitor="box_ap",
    metrics=BOX_METRICS,
    holds=("boxes", "labels", "scores"),
    settings=("detection",),
    network_settings=("anchor_scale",),
    stage_norms=True,
    nano_width=64,
    selection=True,
    bench_size="800x1333",
    demo=DemoFacts(
        data="scenes",
        begins="learning to find digits on 2,000 scenes, for three and a half minutes; 200 others are held out",
        metric="box_ap50",
        starts_from="classification",
    ),
)
