"""Each task has a package with the same files, no code outside decides by task, and one file selects kernels."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import twins
from twins.tasks.table import TASKS, facts_of, part_of

SOURCE = Path(twins.__file__).parent
OUTSIDE = [path for path in sorted(SOURCE.rglob("*.py")) if path.relative_to(SOURCE).parts[0] != "tasks"]
NETWORKS = {"Classification", "SemanticSegmentation", "Detection", "InstanceSegmentation"}


def decisions(tree: ast.AST) -> list[int]:
    """Lines that compare with a task's name, have a dict with several task names, or test for a network's class."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            compared = [part for side in node.comparators for part in ast.walk(side)]
            names = [part for part in compared if isinstance(part, ast.Constant) and part.value in TASKS]
        elif isinstance(node, ast.Dict):
            keys = [key for key in node.keys if isinstance(key, ast.Constant) and key.value in TASKS]
            names = keys if len(keys) > 1 else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            names = [part for part in ast.walk(node) if isinstance(part, ast.Name) and part.id in NETWORKS]
        else:
            continue
        lines += [node.lineno] if names else []
    return lines


def test_decisions_by_a_tasks_name_or_class_are_detected():
    code = "task == 'semantic'\n{'detection': 1, 'instance': 2}\nisinstance(x, int | Detection)\n{'detection': 1}"
    assert decisions(ast.parse(code)) == [1, 2, 3]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_outside_tasks_decides_by_a_tasks_name_or_class(path):
    assert decisions(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_same_files_and_names(task):
    facts, network, report = facts_of(task), part_of(task, "network"), part_of(task, "report")
    assert set(facts.prediction_fields) <= {"labels", "scores", "boxes", "masks", "label_map"}
    assert facts.monitor in facts.metrics
    assert facts.demo is None or facts.demo.metric in facts.metrics
    assert all(callable(part) for part in (network.build, report.sections))
    assert facts.demo is None or callable(report.demo_picture)
    assert part_of(task, "spec").SPEC.csv_columns
    assert part_of(task, "recipes").RECIPES.recipes
    assert callable(part_of(task, "exports").EXPORT.outputs)


def test_one_file_defines_the_predicates_that_select_a_kernel():
    files = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("can_", "should_")):
                files.add(str(path.relative_to(SOURCE)))
    assert files == {"ops/dispatch.py"}
