# Each target sets itself up in .venv and does one thing; CONTRIBUTING.md says when to use which.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-fast lint build
demo: $(READY)
	$(BIN)/twins demo

test: $(READY)
	$(BIN)/python -m pytest

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# wheel and source archive in dist/, the wheel tried in an environment of its own
build: $(READY)
	$(BIN)/python scripts/check_build.py

# the version in __init__.py is part of an installed package's metadata
$(READY): pyproject.toml src/twins/__init__.py
	@echo "installing the package and its tools in .venv: some minutes, and 6 GB with PyTorch for GPUs"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)
