"""Recipes: descriptions, defaults, published schedules."""

from __future__ import annotations

import pytest

from twins.backbone.config import PUBLISHED
from twins.engine.config import TrainConfig
from twins.errors import NotFoundError
from twins.tasks.default_recipe import DEFAULT
from twins.tasks.detection.recipes import retinanet
from twins.tasks.recipes import NANO, all_recipes, recipes_of, starting_point
from twins.tasks.table import TASKS, facts_of

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
def test_the_recipes_of_a_task_train_it_and_its_demo_names_one(task):
    recipes, demo = {recipe.name: recipe.build() for recipe in recipes_of(task).recipes}, facts_of(task).demo
    assert {config.task for config in recipes.values()} == {task}
    assert demo is not None
    assert recipes[demo.recipe].data == demo.data


@pytest.mark.parametrize("task", TASKS)
def test_without_a_name_the_default_recipe_keeps_what_is_asked_for(task):
    config = starting_point(data="DIR", task=task, model="alt_gvt_base", weights="a.pth")
    assert (config.recipe, config.task, config.data) == (DEFAULT, task, "DIR")
    assert (config.model, config.weights) == ("twins_svt_base", "a.pth")
    assert starting_point(data="DIR", task=task).model == "twins_svt_small"
    assert starting_point(data="DIR", task=task, weights="none").model == NANO
    assert starting_point(data="scenes", task=task).model == NANO


@pytest.mark.parametrize("weights", ["run", "run/best.safetensors"])
def test_the_weights_of_a_run_bring_its_network(tmp_path, weights):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(TrainConfig(data="DIR", model="twins_pcpvt_nano").to_yaml())
    (tmp_path / "run" / "metrics.jsonl").touch()
    path = str(tmp_path / weights)
    assert starting_point(data="DIR", task="detection", weights=path).model == "twins_pcpvt_nano"
    assert starting_point(data="DIR", weights=path, model="twins_svt_base").model == "twins_svt_base"


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
