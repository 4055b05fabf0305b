"""A lower package never imports a higher one, and importing does not load what is not needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import twins

SOURCE = Path(twins.__file__).parent
LINES = [  # from the ground up; `*` stands for one task's room
    ("errors", "deprecation", "files", "run_folder", "preprocess", "predictions"),
    ("tasks.table", "tasks.facts", "tasks.inference", "tasks.*.facts"),
    ("ops",),
    ("backbone",),
    ("heads", "data", "metrics", "drawing", "charts"),
    ("tasks.network", "tasks.*.network", "tasks.*.inference", "weights"),
    ("factory",),
    ("engine", "exporting"),
    ("tasks.*.spec", "tasks.*.report", "tasks.*.recipes", "tasks.contract", "tasks.recipes"),
    ("training", "evaluation", "predictor", "exported", "report"),
    ("serve", "bench", "integrations"),
    ("cli", "__main__"),
]
LAZY = {("predictions", "drawing")}  # Prediction.draw imports it when called


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def line_of(module: str) -> int:
    for number, patterns in enumerate(LINES):
        for pattern in patterns:
            if fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*"):
                return number
    raise AssertionError(f"{module} has no place in the layout")


MODULES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
PLACED = [module for module, path in MODULES.items() if path.name != "__init__.py" or path.stat().st_size]


def imported(module: str) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "twins":
            base = (node.module or "").removeprefix("twins").removeprefix(".")
            for name in node.names:
                inner = f"{base}.{name.name}".removeprefix(".")
                found.add(inner if inner in MODULES else base)
    return found - {"", module}


@pytest.mark.parametrize("module", [module for module in PLACED if module != "__init__"])
def test_a_lower_file_imports_no_higher_one(module):
    for other in imported(module):
        if (module, other) not in LAZY:
            assert line_of(other) <= line_of(module), f"{module} imports {other}"


def test_no_files_import_each_other_in_a_circle():
    graph = {module: {other for other in imported(module) if (module, other) not in LAZY} for module in PLACED}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_task_imports_another_except_instance_of_detection():
    for module in PLACED:
        room = re.fullmatch(r"tasks\.(\w+)\.\w+", module)
        rooms = {found[1] for other in imported(module) if (found := re.fullmatch(r"tasks\.(\w+)\.\w+", other))}
        if room:
            assert rooms - {room[1]} <= ({"detection"} if room[1] == "instance" else set()), module


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
        "import twins.tasks.recipes",
        "import twins.bench.config",
        "import twins.cli.main as m; m.main(['--help'])",
        "import twins.cli.train",
    ],
)
def test_names_configs_recipes_and_help_load_no_torch(statement):
    assert "torch" not in loaded(statement)


@pytest.mark.parametrize("statement", ["import twins; twins.create_model", "import twins.cli.check, twins.tasks.table"])
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
