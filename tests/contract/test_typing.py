"""Typed user code that holds every public name passes mypy's strict checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import twins

CONSUMER = Path(__file__).resolve().with_name("typed_consumer.py")
ROOT = CONSUMER.parents[2]
PACKAGE = Path(twins.__file__).parent


def test_the_consumer_uses_every_public_name():
    assert set(re.findall(r"\btwins\.(\w+)", CONSUMER.read_text())) >= set(twins.__all__)


def test_a_users_code_passes_mypy_strict():
    assert (PACKAGE / "py.typed").exists()  # else an installed package counts as untyped
    done = subprocess.run(  # with the project's settings, so that what `make lint` has checked is not checked again
        [sys.executable, "-m", "mypy", "--strict", str(CONSUMER)],
        env=os.environ | {"MYPYPATH": str(PACKAGE.parent)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
