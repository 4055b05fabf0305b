"""`twins recipes`: what can be trained, and how."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from twins.cli.parse import parse
from twins.tasks.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class RecipesArgs:
    """List the training recipes: what each is for, its command, hardware, expected score and source."""


ARGS = RecipesArgs
"""What the verb takes."""


def run(arguments: list[str]) -> int:
    """Print each recipe's name and docstring."""
    parse(RecipesArgs, "recipes", arguments)
    for name, recipe in sorted(RECIPES.items()):
        print(f"{name}\n    {inspect.getdoc(recipe)}\n".replace("\n\n", "\n").replace("\n", "\n    ").rstrip() + "\n")
    return 0
