"""Names, docstrings, comments, messages and pages use the field's word for a thing; CONTRIBUTING explains the words.

Where the other word has its own meaning, the exception is listed with that meaning.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [path for folder in ("src", "benchmarks", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PYRAMID, COCO = "levels of a feature pyramid", "a record is an entry of COCO's JSON"
COCO_FILES = dict.fromkeys(
    (
        "src/twins/data/formats/coco.py",
        "src/twins/data/formats/coco_images.py",
        "src/twins/data/formats/coco_objects.py",
        "src/twins/metrics/coco_results.py",
    ),
    COCO,
)

WORDS: dict[str, tuple[str, dict[str, str]]] = {  # pattern: the field's word, and where the pattern means another thing
    r"kits?": ("task spec", {}),
    r"levels?": (
        "pixels, `uint8`",
        dict.fromkeys(("src/twins/heads/", "src/twins/tasks/detection/", "src/twins/tasks/instance/"), PYRAMID)
        | dict.fromkeys(("src/twins/weights/info.py", "src/twins/factory.py", "CONTRIBUTING.md", "docs/"), PYRAMID)
        | dict.fromkeys(
            (
                "src/twins/weights/store.py",
                "src/twins/exporting/sessions.py",
                "src/twins/exporting/extra.py",
                "src/twins/serve/log.py",
            ),
            "of a log",
        ),
    ),
    r"blank": ("fill value", {}),
    r"places": ("anchors per location; positions", {}),
    r"leading": ("monitored metric", {}),
    r"records": ("log", COCO_FILES),
    r"working": ("bf16 copy", {}),
    r"pieces?": ("chunks", {}),
    r"prepared": ("deferred fill; preprocessed", {}),
    r"comput\w+ again": ("recomputed in the backward pass", {}),
    r"bettered": ("no improvement", {}),
    r"counts? for nothing": ("ignored", {}),
    r"t(ell|old)\w* (\w+ ){0,3}apart": ("classes; recognised by", {}),
}
NAMES = {  # in `ops/` and `backbone/`, a name that is this word
    "added": "residual",
    "mixed": "the attention output before projection",
    "fixed": "packed weights",
}


@functools.cache
def sentences(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a page, or of a module's texts and comments with the words of each name that it defines."""
    text = path.read_text()
    if path.suffix == ".md":
        return list(enumerate(text.splitlines(), 1))
    tokens = [
        t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type in (tokenize.COMMENT, tokenize.STRING)
    ]
    lines = [(token.start[0] + i, line) for token in tokens for i, line in enumerate(token.string.splitlines())]
    return lines + [(line, name.replace("_", " ")) for line, name in names(path)]


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the names that a module defines: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


@pytest.mark.parametrize("pattern", WORDS)
def test_the_fields_word_stands_for_the_thing(pattern):
    word, exceptions = WORDS[pattern]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()[:80]}"
        for path in (*CODE, *PAGES)
        if not str(path.relative_to(ROOT)).startswith(tuple(exceptions))
        for line, text in sentences(path)
        if re.search(rf"(?<![\w.-])(?:{pattern})(?![\w-])", text, re.IGNORECASE)
    ]
    assert not found, f"write {word} instead"


@pytest.mark.parametrize("pattern", WORDS)
def test_every_exception_is_still_needed(pattern):
    for start in WORDS[pattern][1]:
        files = [path for path in (*CODE, *PAGES) if str(path.relative_to(ROOT)).startswith(start)]
        assert any(re.search(rf"\b{pattern}\b", text) for path in files for _, text in sentences(path)), start


def test_names_of_the_operators_are_the_fields():
    folders = ("src/twins/ops/", "src/twins/backbone/")
    files = [path for path in CODE if str(path.relative_to(ROOT)).startswith(folders)]
    found = [
        f"{path.name}:{line}: {name}; write {NAMES[name]}"
        for path in files
        for line, name in names(path)
        if name in NAMES
    ]
    assert files
    assert not found
