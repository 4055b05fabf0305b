"""A lower package never imports a higher one, and imports load nothing that is not needed."""

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
LINES = [  # lowest first; `*` stands for a task
    ("errors", "deprecation", "files", "machine", "run_folder", "bands", "preprocess", "predictions"),
    ("tasks.table", "tasks.facts", "tasks.inference", "tasks.choices", "tasks.*.facts"),
    ("ops",),
    ("backbone",),
    ("heads", "data", "metrics", "drawing", "drawing_labels", "charts", "tracking"),
    (
        "tasks.network",
        "tasks.*.network",
        "tasks.*.inference",
        "tasks.exports",
        "tasks.*.exports",
        "tasks.views",
        "weights",
    ),
    ("factory",),
    ("engine", "exporting"),
    (
        "tasks.*.spec",
        "tasks.*.report",
        "tasks.*.training_report",
        "tasks.*.recipes",
        "tasks.contract",
        "tasks.recipes",
        "tasks.default_recipe",
        "tasks.suits",
    ),
    (
        "choosing",
        "resolving",
        "run_data",
        "training",
        "banner",
        "evaluation",
        "predictor",
        "attention_maps",
        "token_attention",
        "exported",
        "exporter",
        "quantization",
        "verification",
        "report",
    ),
    ("serve", "bench", "integrations"),
    ("cli", "__main__"),
]
LAZY = {  # imported when a method of Prediction is called
    ("predictions", "drawing"),
    ("predictions", "metrics.coco_results"),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def line_of(module: str) -> int:
    for number, patterns in enumerate(LINES):
        for pattern in patterns:
            if fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*"):
                return number
    raise AssertionError(f"{module} has no line in LINES")


MODULES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
WITH_CODE = [module for module, path in MODULES.items() if len(ast.parse(path.read_text()).body) > 1]


def imported(module: str) -> set[str]:
    """The modules of this package that a module imports, also inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "twins":
            base = (node.module or "").removeprefix("twins").removeprefix(".")
            for name in node.names:
                inner = f"{base}.{name.name}".removeprefix(".")
                modules.add(inner if inner in MODULES else base)
    return modules - {"", module}


@pytest.mark.parametrize("module", [module for module in WITH_CODE if module != "__init__"])
def test_no_module_imports_a_higher_one(module):
    for other in imported(module):
        if (module, other) not in LAZY:
            assert line_of(other) <= line_of(module), f"{module} imports {other}"


def test_there_are_no_import_cycles():
    graph = {module: {other for other in imported(module) if (module, other) not in LAZY} for module in WITH_CODE}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_task_imports_another_except_instance_of_detection():
    for module in WITH_CODE:
        task = re.fullmatch(r"tasks\.(\w+)\.\w+", module)
        tasks = {match[1] for other in imported(module) if (match := re.fullmatch(r"tasks\.(\w+)\.\w+", other))}
        if task:
            assert tasks - {task[1]} <= ({"detection"} if task[1] == "instance" else set()), module


def loaded(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import twins",
        "import twins.backbone.config",
        "import twins.engine.config",
        "import twins.tasks.recipes",
        "import twins.drawing",
        "import twins.bench.config",
        "import twins.cli.main as m; m.main(['--help'])",
        "import twins.cli.train",
        "import twins.serve.server",
    ],
)
def test_names_configs_recipes_help_and_the_servers_front_do_not_load_torch(statement):
    assert "torch" not in loaded(statement)


@pytest.mark.parametrize("statement", ["import twins; twins.create_model", "import twins.cli.check, twins.tasks.table"])
def test_slow_imports_wait_until_they_are_used(statement):
    assert not {"torchvision", "scipy", "timm", "accelerate"} & loaded(statement)


def test_the_backbone_loads_only_torch():
    heavy = {"timm", "torchvision", "accelerate", "torchmetrics", "matplotlib", "PIL", "huggingface_hub"}
    assert not heavy & loaded("import twins.backbone.network")


def test_public_names_are_sorted_and_resolve():
    assert twins.__all__ == sorted(twins.__all__)
    assert set(twins.__all__) == set(twins._HOMES)
    for name in twins.__all__:
        assert getattr(twins, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        _ = twins.create_modle
