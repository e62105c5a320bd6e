# What a newcomer types: `make diagnose`.  PYTHON=python3.12 picks the interpreter of a new .venv,
# ARGS='...' is added to the command a target runs.
PYTHON ?= python3
VENV ?= .venv
# Exact versions. They pin torch: on Linux it may come with several GB of CUDA; for a build of your own (CPU, another CUDA) install torch into .venv first, then `make CONSTRAINTS= test` keeps it.
CONSTRAINTS ?= constraints.txt
ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs
INSTALLED_FUZZ := $(VENV)/.installed-fuzz
SECONDS ?= 60
FUZZED ?= puzzles npy pickled zipped configured safetensors own_header archived

.DEFAULT_GOAL := help
.PHONY: help diagnose test check bench docs schema fuzz clean install
.DELETE_ON_ERROR:

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

diagnose: $(INSTALLED)  ## verdict on the bundled models and puzzles: a table, out/report.html, out/diagnosis.nc
	@$(BIN)/eqrlab diagnose --depth 40 --out out $(ARGS)

# One thread for torch in each worker, or the workers fight over the cores.
test: $(INSTALLED)  ## the whole test suite
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 8 --dist worksteal $(ARGS)

check: $(INSTALLED_DEV)  ## lint, format and types
	@$(BIN)/ruff check --output-format concise .
	@$(BIN)/ruff format --check --output-format concise .
	@$(BIN)/mypy

bench: $(INSTALLED)  ## races with peers and cost at full size: tables and BENCHMARKS.md, a quarter of an hour
	@$(BIN)/pytest -m benchmark tests/benchmarks -s -rs $(ARGS)

docs: $(INSTALLED_DOCS)  ## build the user guide into docs/_build/html
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

schema: $(INSTALLED)  ## write the tables of attractors/SCHEMA.md from attractors/results/variables.py
	@$(BIN)/python -m eqrlab.attractors.results.schema_page

# Linux, Python 3.11 to 3.13. Inputs that reach new code stay in .fuzz and begin the next run; a crash is .fuzz/TARGET-crash-*.
fuzz: $(INSTALLED_FUZZ)  ## search readers of files for crashes, SECONDS=60 for each of FUZZED='puzzles npy ...'
	@for target in $(FUZZED); do PYTHONPATH=$(CURDIR)/src:$(CURDIR) OMP_NUM_THREADS=1 nice -n 10 $(BIN)/python tests/fuzz/run.py $$target .fuzz $(SECONDS) || exit 1; done

clean:  ## remove build files and caches (not .venv, not out)
	@rm -rf build dist docs/_build docs/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find core attractors analyses datasets tests -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: eqrlab needs Python 3.11 or newer, and '$(PYTHON)' is not ($$($(PYTHON) -V 2>&1 | tail -n 1)); run: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: '$(PYTHON)' cannot make virtual environments; install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing eqrlab into $(VENV): once, a few minutes where torch has to be downloaded."
	@$(PIP_INSTALL) -e '.[test]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@$(PIP_INSTALL) -q -e '.[dev]'
	@touch $@

$(INSTALLED_FUZZ): $(INSTALLED)
	@$(PIP_INSTALL) -q -e '.[fuzz]'
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	@$(PIP_INSTALL) -q -e '.[docs]'
	@touch $@
