"""Training recipes of all tasks by name, and the default recipes. Nothing here imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from twins.backbone.config import aliases, resolve_name
from twins.data.config import EMBEDDED
from twins.engine.config import TrainConfig, read_config
from twins.errors import NotFoundError, nearest
from twins.run_folder import CONFIG, find_run
from twins.tasks.default_recipe import DEFAULT, Chooser
from twins.tasks.table import TASKS, check_task, part_of


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named training configuration."""

    name: str
    """Value of `--recipe`."""
    build: Callable[[], TrainConfig]
    """Returns the configuration."""
    description: str
    """Purpose, command, hardware, hours, and the expected score with its source."""

    @classmethod
    def of(cls, function: Callable[..., TrainConfig], *variant: str, **facts: object) -> Recipe:
        """Return a recipe from a function, or from the function of a family of recipes and one variant.

        Args:
            function: returns the configuration; its docstring is the description.
            variant: arguments of the function, appended to the recipe's name, such as `("1x", "svt_small")`.
            facts: values of the docstring's placeholders in braces, besides `{name}`.
        """
        name = "_".join((function.__name__, *variant))
        description = (inspect.getdoc(function) or "").format(name=name, **facts)
        return cls(name=name, build=partial(function, *variant), description=description)


NANO = "twins_svt_nano"
"""Network that the default recipe trains on embedded data, and from random weights."""


def _choose_nothing(run: Chooser) -> None:
    """Leave the settings at their defaults."""


@dataclass(frozen=True, kw_only=True)
class TaskRecipes:
    """The recipes of a task and its defaults: `RECIPES` in `tasks/<task>/recipes.py`."""

    recipes: tuple[Recipe, ...]
    """All recipes of the task."""
    choose: Callable[[Chooser], None] = _choose_nothing
    """Chooses the settings of the default recipe."""


def paper_name(variant: str) -> str:
    """Return the paper's name of a variant: `Twins-SVT-S` for `svt_small`."""
    return aliases(f"twins_{variant}")[0]


def recipes_of(task: str) -> TaskRecipes:
    """Return a task's recipes; raises NotFoundError for an unknown task."""
    recipes: TaskRecipes = part_of(task, "recipes").RECIPES
    return recipes


def default() -> TrainConfig:
    """Choose the settings that are not given from the data, the weights and the time, each with a printed reason.

    Command: twins train --data DATA --minutes 10
    Hardware and hours: any; the settings follow the machine and the minutes.
    Expected: see docs/results/defaults.md.
    """
    return TrainConfig(recipe=DEFAULT)


def all_recipes() -> dict[str, Recipe]:
    """Return the default recipe and those of all tasks by name, sorted."""
    recipes = [Recipe.of(default), *(recipe for task in TASKS for recipe in recipes_of(task).recipes)]
    return {recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.name)}


def starting_point(
    recipe: str | None = None,
    *,
    data: str = "",
    task: str | None = None,
    model: str | None = None,
    weights: str = "auto",
    length: str | None = None,
) -> TrainConfig:
    """Return a recipe's configuration for a data set and a model, as the start for further settings.

    Args:
        recipe: name; `None` is the default recipe, whose other settings are chosen once the data is read.
        data: folder or embedded data set.
        task: name, for the default recipe; `None` is classification.
        model: name or alias of a network; `None` keeps the recipe's: that of the run whose weights are taken, or a nano
            network for embedded data and from random weights.
        weights: `auto` keeps the recipe's.
        length: `epochs`, `steps` or `minutes`: the unit of a length that the caller sets, so the recipe's is dropped.

    Raises:
        NotFoundError: an unknown recipe, task or model.
    """
    recipes = all_recipes()
    name = recipe or DEFAULT
    if name == DEFAULT:
        small = data in EMBEDDED or weights == "none"
        config = TrainConfig(recipe=DEFAULT, task=check_task(task or TrainConfig.task), data=data)
        run = find_run(weights)
        config = replace(config, model=read_config(run / CONFIG).model if run else NANO if small else config.model)
        return replace(config, model=resolve_name(model) if model else config.model, weights=weights)
    if name not in recipes:
        raise NotFoundError(f"no recipe is called {name!r}{nearest(name, recipes) or '; see twins recipes'}")
    config = recipes[name].build()
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
