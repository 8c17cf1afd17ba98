# make demo    run the default stream with the shipped backbone, and print how much was kept
# make test    everything that must hold: ruff, pyright, pytest
# make docs    build the documentation into site/
# make lint    the first two of these, in seconds
# make clean   remove .venv and all caches
#
# The first call makes .venv with the exact versions of constraints.txt; later ones need no network.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# pyright would ask the network for a newer version of itself
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo test lint docs clean

demo: .venv/nacre-installed
	$(BIN)/nacre run

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/dev-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

docs: .venv/dev-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'open site/index.html'

clean:
	rm -rf .venv site .pytest_cache .ruff_cache .hypothesis build dist src/nacre.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/nacre-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e .
	touch $@

.venv/dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@ .venv/nacre-installed
