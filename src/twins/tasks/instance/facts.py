"""Facts of instance segmentation: heads, classes, preprocessing, metrics and settings."""

from __future__ import annotations

from twins.tasks.detection.facts import BOX_METRICS, LATERAL, MASK_METRICS, PREPROCESS
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts, by_model, by_published_model

FACTS = TaskFacts(
    title="Instance segmentation",
    heads={
        "mask_rcnn": HeadFacts(
            title="Mask R-CNN",
            classifier="roi_head.mask_head.conv_logits.weight",
            dims=4,
            width_key=LATERAL,
            width=256,
            params=by_model(
                63_485_940, 80_647_156, 4_117_396, 43_763_700, 75_581_300, 118_649_076, 3_838_388, 43_703_796
            ),
            published_millions=by_published_model(64.0, 81.2, 44.3, 76.3, 119.7, 44.0),
        )
    },
    num_classes=80,
    class_table="coco",
    preprocess=PREPROCESS,
    monitor="mask_ap",
    detail=3,
    metrics=BOX_METRICS | MASK_METRICS,
    prediction_fields=("boxes", "labels", "scores", "masks"),
    train_settings=("detection", "boxes"),
    network_settings=("anchor_scale",),
    stage_norms=True,
    nano_width=64,
    inference=("scales", "flip", "tile", "overlap"),
    selection=True,
    bench_size="800x1333",
    demo=DemoFacts(
        data="scenes",
        recipe="scenes_instance",
        intro="learning to cut digits out of 2,000 scenes, for two minutes; 200 others are held out to measure",
        metric="mask_ap50",
        starts_from="classification",
    ),
)
