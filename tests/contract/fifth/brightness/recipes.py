"""The recipe: training from random weights."""

from __future__ import annotations

from twins.engine.config import TrainConfig
from twins.tasks.recipes import Recipe, TaskRecipes


def brightness() -> TrainConfig:
    """Learn the brightness of images.

    Command: twins train --task brightness --data DIR
    """
    return TrainConfig(recipe="brightness", task="brightness", model="twins_svt_nano", weights="none", size=64)


RECIPES = TaskRecipes(recipes=(Recipe.of(brightness),))
