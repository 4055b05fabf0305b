"""All recipes by name, and the one that a user who names none gets. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twins.backbone.config import PUBLISHED, resolve_name
from twins.engine.config import TrainConfig
from twins.errors import NotFoundError, nearest
from twins.tasks.classification import imagenet
from twins.tasks.classification import recipes as folder
from twins.tasks.detection import recipes as detection
from twins.tasks.instance import recipes as instance
from twins.tasks.semantic import recipes as semantic

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        detection.detection_finetune,
        detection.detection_scratch,
        detection.retinanet_1x_pcpvt_base,
        detection.retinanet_1x_pcpvt_large,
        detection.retinanet_1x_pcpvt_small,
        detection.retinanet_1x_svt_base,
        detection.retinanet_1x_svt_large,
        detection.retinanet_1x_svt_small,
        detection.retinanet_3x_pcpvt_base,
        detection.retinanet_3x_pcpvt_large,
        detection.retinanet_3x_pcpvt_small,
        detection.retinanet_3x_svt_base,
        detection.retinanet_3x_svt_large,
        detection.retinanet_3x_svt_small,
        detection.scenes_detection,
        folder.digits,
        folder.finetune,
        folder.scratch,
        imagenet.imagenet_pcpvt_base,
        imagenet.imagenet_pcpvt_large,
        imagenet.imagenet_pcpvt_small,
        imagenet.imagenet_svt_base,
        imagenet.imagenet_svt_large,
        imagenet.imagenet_svt_small,
        instance.instance_finetune,
        instance.instance_scratch,
        instance.mask_rcnn_1x_pcpvt_base,
        instance.mask_rcnn_1x_pcpvt_large,
        instance.mask_rcnn_1x_pcpvt_small,
        instance.mask_rcnn_1x_svt_base,
        instance.mask_rcnn_1x_svt_large,
        instance.mask_rcnn_1x_svt_small,
        instance.mask_rcnn_3x_pcpvt_base,
        instance.mask_rcnn_3x_pcpvt_large,
        instance.mask_rcnn_3x_pcpvt_small,
        instance.mask_rcnn_3x_svt_base,
        instance.mask_rcnn_3x_svt_large,
        instance.mask_rcnn_3x_svt_small,
        instance.scenes_instance,
        semantic.scenes,
        semantic.semantic_finetune,
        semantic.semantic_fpn_pcpvt_base,
        semantic.semantic_fpn_pcpvt_large,
        semantic.semantic_fpn_pcpvt_small,
        semantic.semantic_fpn_svt_base,
        semantic.semantic_fpn_svt_large,
        semantic.semantic_fpn_svt_small,
        semantic.semantic_scratch,
        semantic.upernet_pcpvt_base,
        semantic.upernet_pcpvt_large,
        semantic.upernet_pcpvt_small,
        semantic.upernet_svt_base,
        semantic.upernet_svt_large,
        semantic.upernet_svt_small,
    )
}
"""Name to function; each function's docstring says command, hardware, hours, expected score and its source."""
_EMBEDDED = {
    "classification": {"digits": "digits"},
    "semantic": {"scenes": "scenes"},
    "detection": {"scenes": "scenes_detection"},
    "instance": {"scenes": "scenes_instance"},
}
_USUAL = {
    "classification": ("finetune", "scratch"),
    "semantic": ("semantic_finetune", "semantic_scratch"),
    "detection": ("detection_finetune", "detection_scratch"),
    "instance": ("instance_finetune", "instance_scratch"),
}
"""Each task's recipes from published weights and from nothing."""


def default_recipe(*, data: str, task: str = "classification", model: str | None = None, weights: str = "auto") -> str:
    """Return the recipe for who names none: by the task, the data, and whether training starts from weights.

    Raises:
        NotFoundError: no task or model is called so.
    """
    if task not in _USUAL:
        hint = nearest(task, _USUAL) or f"; the tasks are {', '.join(_USUAL)}"
        raise NotFoundError(f"no task is called {task!r}{hint}")
    if data in _EMBEDDED[task]:
        return _EMBEDDED[task][data]
    adapt, scratch = _USUAL[task]
    if weights == "none":
        return scratch
    nano = model is not None and resolve_name(model) not in PUBLISHED
    return scratch if nano and weights == "auto" else adapt


def starting_point(
    recipe: str | None = None,
    *,
    data: str = "",
    task: str | None = None,
    model: str | None = None,
    weights: str = "auto",
    length: str | None = None,
) -> TrainConfig:
    """Return a recipe's settings for a data set and a model, to be changed from there.

    Args:
        recipe: name; `None` is the default for the task, data and model.
        data: folder, `digits` or `scenes`.
        task: `classification`, `semantic`, `detection` or `instance`; `None` is the recipe's, or classification.
        model: any name of a network; `None` is the recipe's.
        weights: `auto` leaves the recipe's.
        length: `epochs`, `steps` or `minutes`, where the run's length will be given so; the recipe's own is dropped.

    Raises:
        NotFoundError: no recipe, task or model is called so.
    """
    name = recipe or default_recipe(data=data, task=task or "classification", model=model, weights=weights)
    if name not in RECIPES:
        raise NotFoundError(f"no recipe is called {name!r}{nearest(name, RECIPES) or '; see twins recipes'}")
    config = RECIPES[name]()
    if length in ("epochs", "steps"):
        config = replace(config, minutes=None)
    if length in ("epochs", "minutes") and config.steps is not None:
        schedule = replace(config.schedule, warmup_steps=None)
        config = replace(config, steps=None, schedule=schedule)
    return replace(
        config,
        data=data or config.data,
        model=resolve_name(model) if model else config.model,
        weights=config.weights if weights == "auto" else weights,
    )
