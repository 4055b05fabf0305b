"""Recipes: every one says what it is, every default exists, and a schedule is what its name says."""

from __future__ import annotations

import pytest

from twins.backbone.config import PUBLISHED
from twins.errors import NotFoundError
from twins.tasks.detection.recipes import retinanet
from twins.tasks.recipes import all_recipes, default_recipe, recipes_of, starting_point
from twins.tasks.table import TASKS

DETECTORS = [f"{head}_{schedule}" for head in ("retinanet", "mask_rcnn") for schedule in ("1x", "3x")]


@pytest.mark.parametrize("name", all_recipes())
def test_a_description_begins_with_what_it_is_and_says_the_command(name):
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
        for said in (f"--recipe {name} ", "Hardware: ", "Expected: ", "Not run here."):
            assert said in recipe.description
        assert "(paper" in recipe.description or "no score is published" in recipe.description


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_defaults_are_recipes_of_its_own(task):
    found = recipes_of(task)
    assert {found.finetune, found.scratch, *found.embedded.values()} <= {recipe.name for recipe in found.recipes}
    assert {recipe.build().task for recipe in found.recipes} == {task}
    assert default_recipe(data="DIR", task=task) == found.finetune
    assert default_recipe(data="DIR", task=task, model="twins_svt_nano") == found.scratch
    assert default_recipe(data="DIR", task=task, model="twins_svt_nano", weights="a.pth") == found.finetune
    assert default_recipe(data="DIR", task=task, weights="none") == found.scratch
    for data, name in found.embedded.items():
        assert starting_point(data=data, task=task).recipe == name


def test_a_schedule_sets_length_scales_and_weight_decay():
    short, long = retinanet("1x", "svt_small"), retinanet("3x", "svt_small")
    assert (short.epochs, short.schedule.drop_epochs, short.optimizer.weight_decay) == (12, (8.0, 11.0), 1e-4)
    assert (long.epochs, long.schedule.drop_epochs, long.optimizer.weight_decay) == (36, (27.0, 33.0), 0.05)
    assert len(long.detection.shorter) > len(short.detection.shorter)
    assert (long.detection.crop, short.detection.crop) == (0.5, 0.0)


def test_a_misspelt_task_or_recipe_is_answered_with_the_nearest():
    with pytest.raises(NotFoundError, match="no task is called 'semantics'; did you mean semantic"):
        recipes_of("semantics")
    with pytest.raises(NotFoundError, match="no recipe is called 'upernet_svt_smal'; did you mean upernet_svt_small"):
        starting_point("upernet_svt_smal")
