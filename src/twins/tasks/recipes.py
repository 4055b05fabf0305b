"""Training recipes of all tasks by name, and the default for a run that names none. Nothing here imports torch."""

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
    """A training by name."""

    name: str
    """What `--recipe` takes."""
    build: Callable[[], TrainConfig]
    """Returns the settings."""
    about: str
    """What it is for; the command, hardware and hours; the expected score and its source."""

    @classmethod
    def of(cls, function: Callable[..., TrainConfig], *variant: str, **facts: object) -> Recipe:
        """Make a recipe of a function, or of a family's function and one variant.

        Args:
            function: returns the settings; its docstring is the description.
            variant: the function's arguments, which end the recipe's name: `("1x", "svt_small")`.
            facts: what stands in braces in the docstring, besides `{name}`.
        """
        name = "_".join((function.__name__, *variant))
        about = (inspect.getdoc(function) or "").format(name=name, **facts)
        return cls(name=name, build=partial(function, *variant), about=about)


@dataclass(frozen=True, kw_only=True)
class TaskRecipes:
    """What a task's `recipes.py` offers as `RECIPES`."""

    recipes: tuple[Recipe, ...]
    """All of the task."""
    adapt: str
    """Name of the default that starts from published weights."""
    scratch: str
    """Name of the default that starts from random weights."""
    embedded: dict[str, str] = field(default_factory=dict)
    """Embedded data set to the name of its default."""


def paper_name(variant: str) -> str:
    """Return what the paper calls a variant: `Twins-SVT-S` for `svt_small`."""
    return aliases(f"twins_{variant}")[0]


def recipes_of(task: str) -> TaskRecipes:
    """Return a task's recipes.

    Raises:
        NotFoundError: no task is called so.
    """
    found: TaskRecipes = part_of(task, "recipes").RECIPES
    return found


def all_recipes() -> dict[str, Recipe]:
    """Return the recipes of all tasks by name, sorted."""
    found = [recipe for task in TASKS for recipe in recipes_of(task).recipes]
    return {recipe.name: recipe for recipe in sorted(found, key=lambda recipe: recipe.name)}


def default_recipe(*, data: str, task: str = TrainConfig.task, model: str | None = None, weights: str = "auto") -> str:
    """Return the name of the recipe for a run that names none: by task, data, and whether it starts from weights.

    Raises:
        NotFoundError: no task or model is called so.
    """
    found = recipes_of(task)
    if data in found.embedded:
        return found.embedded[data]
    unpublished = model is not None and resolve_name(model) not in PUBLISHED
    return found.scratch if weights == "none" or (unpublished and weights == "auto") else found.adapt


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
        data: folder or embedded data set.
        task: name of the task that a default is for; `None` is classification.
        model: any name of a network; `None` is the recipe's.
        weights: `auto` leaves the recipe's.
        length: `epochs`, `steps` or `minutes`, where the run's length will be given so; the recipe's own is dropped.

    Raises:
        NotFoundError: no recipe, task or model is called so.
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
