"""`twins recipes`: list the training recipes."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent

from twins.cli.parse import parse
from twins.tasks.recipes import all_recipes


@dataclass(frozen=True, kw_only=True)
class RecipesArgs:
    """List the training recipes: purpose, command, hardware, and expected score with its source."""


ARGS = RecipesArgs


def run(arguments: list[str]) -> int:
    """Print each recipe's name and description."""
    parse(RecipesArgs, "recipes", arguments)
    for recipe in all_recipes().values():
        print(recipe.name)
        print(indent(recipe.description.replace("\n\n", "\n"), "    "), end="\n\n")
    return 0
