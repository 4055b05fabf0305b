"""Recipes: descriptions, defaults, published schedules."""

from __future__ import annotations

import pytest

from twins.backbone.config import PUBLISHED
from twins.errors import NotFoundError
from twins.tasks.detection.recipes import retinanet
from twins.tasks.recipes import all_recipes, default_recipe, recipes_of, starting_point
from twins.tasks.table import TASKS

DETECTORS = [f"{head}_{schedule}" for head in ("retinanet", "mask_rcnn") for schedule in ("1x", "3x")]


@pytest.mark.parametrize("name", all_recipes())
def test_a_description_begins_with_a_sentence_and_the_command(name):
    first, command, *rest = [line for line in all_recipes()[name].description.splitlines() if line]
    assert first.endswith(".")
    assert command.startswith("Command: ")
    assert "{" not in "".join([first, command, *rest])


@pytest.mark.parametrize("family", ["imagenet", "semantic_fpn", "upernet", *DETECTORS])
def test_every_published_variant_has_its_recipe_with_hardware_score_and_source(family):
    for model in PUBLISHED:
        name = f"{family}_{model.removeprefix('twins_')}"
        recipe = all_recipes()[name]
        assert recipe.build().model == model
        for part in (f"--recipe {name} ", "Hardware: ", "Expected: ", "Not run here."):
            assert part in recipe.description
        assert "(paper" in recipe.description or "no score is published" in recipe.description


@pytest.mark.parametrize("task", TASKS)
def test_the_defaults_of_a_task_are_among_its_recipes(task):
    recipes = recipes_of(task)
    assert {recipes.finetune, recipes.scratch, *recipes.embedded.values()} <= {
        recipe.name for recipe in recipes.recipes
    }
    assert {recipe.build().task for recipe in recipes.recipes} == {task}
    assert default_recipe(data="DIR", task=task) == recipes.finetune
    assert default_recipe(data="DIR", task=task, model="twins_svt_nano") == recipes.scratch
    assert default_recipe(data="DIR", task=task, model="twins_svt_nano", weights="a.pth") == recipes.finetune
    assert default_recipe(data="DIR", task=task, weights="none") == recipes.scratch
    for data, name in recipes.embedded.items():
        assert starting_point(data=data, task=task).recipe == name


def test_a_schedule_sets_length_scales_and_weight_decay():
    short, long = retinanet("1x", "svt_small"), retinanet("3x", "svt_small")
    assert (short.epochs, short.schedule.drop_epochs, short.optimizer.weight_decay) == (12, (8.0, 11.0), 1e-4)
    assert (long.epochs, long.schedule.drop_epochs, long.optimizer.weight_decay) == (36, (27.0, 33.0), 0.05)
    assert len(long.detection.shorter) > len(short.detection.shorter)
    assert (long.detection.crop, short.detection.crop) == (0.5, 0.0)


def test_an_error_on_a_misspelt_task_or_recipe_offers_the_nearest():
    with pytest.raises(NotFoundError, match="no task is called 'semantics'; did you mean semantic"):
        recipes_of("semantics")
    with pytest.raises(NotFoundError, match="no recipe is called 'upernet_svt_smal'; did you mean upernet_svt_small"):
        starting_point("upernet_svt_smal")
