"""Names, docstrings, comments and pages use the words of the field, which CONTRIBUTING lists, each in one meaning."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = [path for folder in ("src", "benchmarks", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.remove(ROOT / "CONTRIBUTING.md")  # its table explains the words

WORDS = {  # a word that has another name in the field: that name
    r"kits?": "task spec",
    r"levels?": "pixels, or `uint8`; a level is one of a feature pyramid's",
    r"keys": "key mask, if it is a mask",
    r"added": "residual add, if it is one",
    r"mixed": "attention output before projection, if it is one",
    r"blank": "fill value",
    r"places?": "anchors per location, position, index",
    r"leading": "monitored metric",
    r"records?": "log, logger",
    r"working": "bf16 copy with fp32 master weights",
    r"pieces?": "chunks",
    r"fixed": "packed weights, if they are",
    r"prepared": "deferred fill, if it is one",
    r"computed again": "recomputed in the backward pass",
    r"bettered": "no improvement",
    r"counts? for nothing": "ignored",
    r"(tells?|told|telling) (\w+ ){0,3}apart": "classes, or recognised by",
}
EXCEPTIONS = {  # word: files in which it has its other meaning, and that meaning
    r"levels?": {
        "src/twins/heads/": "levels of a feature pyramid",
        "src/twins/tasks/detection/": "levels of a feature pyramid",
        "src/twins/tasks/instance/": "levels of a feature pyramid",
        "src/twins/weights/info.py": "levels of a feature pyramid",
        "src/twins/factory.py": "levels of a feature pyramid",
        "src/twins/evaluation.py": "the top level of a JSON file",
        "docs/": "levels of a feature pyramid",
    },
}


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page, or of a module's docstrings, texts and comments, and the names that it defines."""
    text = path.read_text()
    if path.suffix == ".md":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from ((token.start[0] + i, line) for i, line in enumerate(token.string.splitlines()))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name.replace("_", " ")
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg.replace("_", " ")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id.replace("_", " ")
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr.replace("_", " ")
