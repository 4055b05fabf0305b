"""Facts of object detection: heads, classes, preprocessing, metrics and settings."""

from __future__ import annotations

from twins.preprocess import Preprocess
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts, by_model, by_published_model

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
            params=by_model(
                53_564_404, 70_725_620, 3_814_228, 33_842_164, 66_241_396, 109_890_804, 3_535_220, 33_782_260
            ),
            published_millions=by_published_model(54.1, 71.2, 34.4, 67.0, 110.9, 34.3),
        ),
        "faster_rcnn": HeadFacts(
            title="Faster R-CNN",
            classifier="roi_head.bbox_head.fc_cls.weight",
            dims=2,
            background=1,
            width_key=LATERAL,
            width=256,
            params=by_model(
                60_842_660, 78_003_876, 3_948_036, 41_120_420, 72_938_020, 116_005_796, 3_669_028, 41_060_516
            ),
        ),
    },
    num_classes=80,
    class_table="coco",
    preprocess=PREPROCESS,
    monitor="box_ap",
    detail=2,
    metrics=BOX_METRICS,
    prediction_fields=("boxes", "labels", "scores"),
    train_settings=("detection", "boxes"),
    network_settings=("anchor_scale",),
    stage_norms=True,
    nano_width=64,
    inference=("scales", "flip", "tile", "overlap"),
    selection=True,
    bench_size="800x1333",
    demo=DemoFacts(
        data="scenes",
        recipe="scenes_detection",
        intro="learning to find digits on 2,000 scenes, for three and a half minutes; 200 others are held out",
        metric="box_ap50",
        starts_from="classification",
    ),
)
