"""All recipes by name, and the one that a user who names none gets. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twins.backbone.config import PUBLISHED, resolve_name
from twins.engine.config import TrainConfig
from twins.errors import NotFoundError, nearest
from twins.recipes.folder import digits, finetune, scratch
from twins.recipes.imagenet import (
    imagenet_pcpvt_base,
    imagenet_pcpvt_large,
    imagenet_pcpvt_small,
    imagenet_svt_base,
    imagenet_svt_large,
    imagenet_svt_small,
)

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "digits": digits,
    "finetune": finetune,
    "imagenet_pcpvt_base": imagenet_pcpvt_base,
    "imagenet_pcpvt_large": imagenet_pcpvt_large,
    "imagenet_pcpvt_small": imagenet_pcpvt_small,
    "imagenet_svt_base": imagenet_svt_base,
    "imagenet_svt_large": imagenet_svt_large,
    "imagenet_svt_small": imagenet_svt_small,
    "scratch": scratch,
}
"""Name to function; each function's docstring says command, hardware, hours, expected score and its source."""


def default_recipe(*, data: str, model: str | None = None, weights: str = "auto") -> str:
    """Return the recipe for who names none: by the data, and by whether training starts from weights.

    Raises:
        NotFoundError: no model is called so.
    """
    if data == "digits":
        return "digits"
    if weights == "none":
        return "scratch"
    nano = model is not None and resolve_name(model) not in PUBLISHED
    return "scratch" if nano and weights == "auto" else "finetune"


def starting_point(
    recipe: str | None = None, *, data: str = "", model: str | None = None, weights: str = "auto"
) -> TrainConfig:
    """Return a recipe's settings for a data set and a model, to be changed from there.

    Args:
        recipe: name; `None` is the default for the data and model.
        data: folder or `digits`.
        model: any name of a network; `None` is the recipe's.
        weights: `auto` leaves the recipe's.

    Raises:
        NotFoundError: no recipe or model is called so.
    """
    name = recipe or default_recipe(data=data, model=model, weights=weights)
    if name not in RECIPES:
        raise NotFoundError(f"no recipe is called {name!r}{nearest(name, RECIPES) or '; see twins recipes'}")
    config = RECIPES[name]()
    return replace(
        config,
        data=data or config.data,
        model=resolve_name(model) if model else config.model,
        weights=config.weights if weights == "auto" else weights,
    )
