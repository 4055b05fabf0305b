"""`twins recipes`: list the training recipes, or show one of them with its settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from textwrap import indent, shorten
from typing import Annotated, Any

from tyro.conf import Positional, arg

from twins.backbone.config import PUBLISHED
from twins.cli.parse import parse
from twins.engine.config import TrainConfig
from twins.errors import NotFoundError, nearest
from twins.tasks.default_recipe import DEFAULT
from twins.tasks.recipes import Recipe, all_recipes, paper_name, recipes_of
from twins.tasks.table import TASKS, facts_of


@dataclass(frozen=True, kw_only=True)
class RecipesArgs:
    """List the training recipes, or show one of them with its command, hardware, expected score and settings."""

    words: Annotated[tuple[str, ...], Positional, arg(metavar="[NAME|WORD...]")] = ()
    """Name of the recipe to show; or words to search, such as a task, a head or a model: recipes that match all of
    them are listed."""


ARGS = RecipesArgs


def run(arguments: list[str]) -> int:
    """Print a table of recipes by task, or one recipe in full."""
    words = parse(RecipesArgs, "recipes", arguments).words
    recipes = all_recipes()
    if len(words) == 1 and words[0] in recipes:
        _show(recipes[words[0]])
        return 0
    tables = {f"{facts_of(task).title}, --task {task}": _rows(recipes_of(task).recipes, words) for task in TASKS}
    tables = {"Every task": _rows([recipes[DEFAULT]], words)} | tables
    if not any(tables.values()):
        query = " ".join(words)
        raise NotFoundError(f"no recipe matches {query!r}{nearest(query, recipes) or '; see twins recipes'}")
    width = max(len(name) for rows in tables.values() for name in rows)
    columns = shutil.get_terminal_size().columns
    for title, rows in tables.items():
        if rows:
            print(title)
        for name, purpose in rows.items():
            print(f"  {name:<{width}}  {shorten(purpose, max(columns - width - 4, 20), placeholder=' ...')}")
    if not words:
        print(f"\n{_VARIANT} is one of {', '.join(_VARIANTS)}")
    print("\ntwins recipes NAME shows one with its settings; twins train --recipe NAME uses it")
    return 0


_VARIANT, _VARIANTS = "VARIANT", tuple(name.removeprefix("twins_") for name in PUBLISHED)


def _rows(recipes: Iterable[Recipe], words: tuple[str, ...]) -> dict[str, str]:
    """Return the purposes of recipes by name: of those that match all words, or without words with one row a family."""
    if words:
        return {recipe.name: _purpose(recipe) for recipe in recipes if _matches(recipe, words)}
    rows = {}
    for recipe in recipes:
        variant = next((variant for variant in _VARIANTS if recipe.name.endswith(f"_{variant}")), None)
        name = recipe.name if variant is None else recipe.name.removesuffix(variant) + _VARIANT
        rows[name] = _purpose(recipe) if variant is None else _purpose(recipe).replace(paper_name(variant), _VARIANT)
    return rows


def _matches(recipe: Recipe, words: tuple[str, ...]) -> bool:
    """Return whether a recipe's name, task, head, model or purpose contains every word."""
    config = recipe.build()
    text = f"{recipe.name} {config.task} {config.head} {config.model} {_purpose(recipe)}".lower()
    return all(word.lower() in text for word in words)


def _purpose(recipe: Recipe) -> str:
    """Return the first sentence of a recipe's description."""
    return " ".join(recipe.description.partition("\n\n")[0].split())


def _show(recipe: Recipe) -> None:
    """Print a recipe's description, and its settings that differ from the defaults."""
    import yaml

    config = recipe.build()
    print(f"{recipe.name}, for --task {config.task}\n")
    print(recipe.description)
    settings = _changes(asdict(config), asdict(TrainConfig()))
    settings.pop("recipe", None)
    print("\nSettings that differ from the defaults:" + ("" if settings else " none"))
    print(indent(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None), "  ") if settings else "", end="")


def _changes(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the defaults, groups as dicts, and tuples as lists for YAML."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if value != defaults[name]:
            is_group = isinstance(value, dict) and isinstance(defaults[name], dict)
            changes[name] = _changes(value, defaults[name]) if is_group else value
            if isinstance(value, tuple):
                changes[name] = list(value)
    return changes
