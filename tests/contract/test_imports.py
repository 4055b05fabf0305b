"""A lower package never imports a higher one, and importing does not load what is not needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import twins

SOURCE = Path(twins.__file__).parent
LEVELS = [
    {"ops", "predictions", "errors"},
    {"backbone"},
    {"heads", "data", "metrics", "drawing"},
    {"weights"},
    {"tasks"},
    {"factory"},
    {"engine", "export"},
    {"kits", "recipes", "predictor"},
    {"evaluation"},
    {"report"},
    {"training"},
    {"bench"},
    {"cli", "__main__"},
]
LEVEL = {package: number for number, packages in enumerate(LEVELS) for package in packages}
EXCEPTIONS = {("predictions", "drawing")}  # Prediction.draw fetches it when called


def imported(path: Path) -> set[str]:
    """The packages of ours that a file imports, anywhere in it, type checking aside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twins."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_lower_package_imports_no_higher_one(path):
    package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if package == "__init__":
        return  # the public names, resolved on first use
    for other in imported(path) - {package}:
        if (package, other) in EXCEPTIONS:
            continue
        assert LEVEL[other] <= LEVEL[package], f"{package} imports {other}"


def loaded(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import twins",
        "import twins.backbone.config",
        "import twins.engine.config",
        "import twins.recipes.table",
        "import twins.bench.config",
        "import twins.cli.main as m; m.main(['--help'])",
        "import twins.cli.train",
    ],
)
def test_names_configs_recipes_and_help_load_no_torch(statement):
    assert "torch" not in loaded(statement)


@pytest.mark.parametrize("statement", ["import twins; twins.create_model", "import twins.cli.check, twins.kits.table"])
def test_what_takes_seconds_to_load_waits_until_it_is_used(statement):
    assert not {"torchvision", "scipy", "timm", "accelerate"} & loaded(statement)


def test_the_backbone_needs_torch_alone():
    heavy = {"timm", "torchvision", "accelerate", "torchmetrics", "matplotlib", "PIL", "huggingface_hub"}
    assert not heavy & loaded("import twins.backbone.network")


def test_public_names_are_sorted_and_resolve():
    assert twins.__all__ == sorted(twins.__all__)
    assert set(twins.__all__) == set(twins._HOMES)
    for name in twins.__all__:
        assert getattr(twins, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        _ = twins.create_modle
