"""`typed_consumer.py`, typed user code with every public name; `make lint` checks it with mypy --strict."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import twins

CONSUMER = Path(__file__).resolve().with_name("typed_consumer.py")


def test_the_consumer_uses_every_public_name():
    assert set(re.findall(r"\btwins\.(\w+)", CONSUMER.read_text())) >= set(twins.__all__)


def test_lint_checks_the_consumer_and_users_get_the_types():
    settings = tomllib.loads((CONSUMER.parents[2] / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert "tests/contract/typed_consumer.py" in settings["files"]
    assert (
        Path(twins.__file__).parent / "py.typed"
    ).exists()  # otherwise type checkers treat the installed package as untyped
