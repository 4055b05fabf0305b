"""Instance segmentation, as plain data."""

from __future__ import annotations

from twins.tasks.detection.facts import BOX_METRICS, LATERAL, MASK_METRICS, PREPROCESS
from twins.tasks.facts import DemoFacts, HeadFacts, TaskFacts

FACTS = TaskFacts(
    title="Instance segmentation",
    heads={
        "mask_rcnn": HeadFacts(
            title="Mask R-CNN",
            classifier="roi_head.mask_head.conv_logits.weight",
            dims=4,
            width_key=LATERAL,
            width=256,
            params={
                "twins_pcpvt_base": 63_485_940,
                "twins_pcpvt_large": 80_647_156,
                "twins_pcpvt_nano": 4_117_396,
                "twins_pcpvt_small": 43_763_700,
                "twins_svt_base": 75_581_300,
                "twins_svt_large": 118_649_076,
                "twins_svt_nano": 3_838_388,
                "twins_svt_small": 43_703_796,
            },
            published_millions={
                "twins_pcpvt_base": 64.0,
                "twins_pcpvt_large": 81.2,
                "twins_pcpvt_small": 44.3,
                "twins_svt_base": 76.3,
                "twins_svt_large": 119.7,
                "twins_svt_small": 44.0,
            },
        )
    },
    num_classes=80,
    class_table="coco",
    preprocess=PREPROCESS,
    monitor="mask_ap",
    metrics=BOX_METRICS | MASK_METRICS,
    holds=("boxes", "labels", "scores", "masks"),
    settings=("detection",),
    network_settings=("anchor_scale",),
    stage_norms=True,
    nano_width=64,
    selection=True,
    bench_size="800x1333",
    demo=DemoFacts(
        data="scenes",
        begins="learning to cut digits out of 2,000 scenes, for two minutes; 200 others are held out to measure",
        metric="mask_ap50",
        starts_from="classification",
    ),
)
