"""The examples in CONTRIBUTING.md work as written."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from PIL.Image import Image

from twins.deprecation import TwinsDeprecationWarning, renamed_argument
from twins.tasks.classification import recipes
from twins.tasks.recipes import all_recipes, starting_point

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
FUNCTION, LIST, DEPRECATION = map(textwrap.dedent, re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))


@pytest.fixture
def _recipe(monkeypatch):
    """Put the page's code at the end of the module that it names."""
    names = dict(vars(recipes))
    exec(f"{FUNCTION}\n{LIST}", names)
    monkeypatch.setattr(recipes, "RECIPES", names["RECIPES"])


@pytest.mark.usefixtures("_recipe")
def test_its_recipe_is_listed_and_is_a_starting_point():
    description = all_recipes()["small_images"].description
    assert description.startswith("Adapt published weights to images of some 100 pixels.\n\nCommand: ")
    config = starting_point("small_images", data="digits")
    assert (config.recipe, config.data, config.size, config.epochs) == ("small_images", "digits", 96, 30)


def test_its_deprecation_warns_of_the_old_name():
    names = {"renamed_argument": renamed_argument, "Image": Image}
    exec(f"from __future__ import annotations\n{DEPRECATION}", names)
    with pytest.warns(TwinsDeprecationWarning, match="`colour` is deprecated since twins 0.2"):
        names["draw"](None, colour="blue")


def test_the_folders_and_files_that_it_names_exist():
    root = Path(__file__).parents[2]
    paths = re.findall(r"`((?:src|tests|docs|scripts|benchmarks|\.github)/[\w./]+)`", PAGE)
    assert len(paths) > 10
    assert all((root / path).exists() for path in paths)
