"""Training recipes of all tasks by name, and the default recipes. Nothing here imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from twins.backbone.config import PUBLISHED, aliases, resolve_name
from twins.engine.config import TrainConfig
from twins.errors import NotFoundError, nearest
from twins.tasks.table import TASKS, part_of


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


@dataclass(frozen=True, kw_only=True)
class TaskRecipes:
    """The recipes of a task and its defaults: `RECIPES` in `tasks/<task>/recipes.py`."""

    recipes: tuple[Recipe, ...]
    """All recipes of the task."""
    finetune: str
    """Name of the default recipe from published weights."""
    scratch: str
    """Name of the default recipe from random weights."""
    embedded: dict[str, str] = field(default_factory=dict)
    """Names of the default recipes by embedded data set."""


def paper_name(variant: str) -> str:
    """Return the paper's name of a variant: `Twins-SVT-S` for `svt_small`."""
    return aliases(f"twins_{variant}")[0]


def recipes_of(task: str) -> TaskRecipes:
    """Return a task's recipes; raises NotFoundError for an unknown task."""
    recipes: TaskRecipes = part_of(task, "recipes").RECIPES
    return recipes


def all_recipes() -> dict[str, Recipe]:
    """Return the recipes of all tasks by name, sorted."""
    recipes = [recipe for task in TASKS for recipe in recipes_of(task).recipes]
    return {recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.name)}


def default_recipe(*, data: str, task: str = TrainConfig.task, model: str | None = None, weights: str = "auto") -> str:
    """Return the name of the default recipe: by task, data, and whether the run starts from weights.

    Raises:
        NotFoundError: an unknown task or model.
    """
    recipes = recipes_of(task)
    if data in recipes.embedded:
        return recipes.embedded[data]
    unpublished = model is not None and resolve_name(model) not in PUBLISHED
    return recipes.scratch if weights == "none" or (unpublished and weights == "auto") else recipes.finetune


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
        recipe: name; `None` is the default for the task, data, model and weights.
        data: folder or embedded data set.
        task: name, for the default recipe; `None` is classification.
        model: name or alias of a network; `None` keeps the recipe's.
        weights: `auto` keeps the recipe's.
        length: `epochs`, `steps` or `minutes`: the unit of a length that the caller sets, so the recipe's is dropped.

    Raises:
        NotFoundError: an unknown recipe, task or model.
    """
    recipes = all_recipes()
    name = recipe or default_recipe(data=data, task=task or TrainConfig.task, model=model, weights=weights)
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
