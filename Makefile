# `make app` opens the workbench, `make test` checks everything. Both create the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help app test lint types unit soak lock clean

help:
	@echo "make app    create the environment and open the workbench on the bundled pair"
	@echo "make test   create the environment and run ruff, the type checker and all tests"
	@echo "make lock   write requirements.lock anew; UPGRADE=--upgrade takes the newest versions within the bounds"
	@echo "make soak   run every long test for SOAK_MINUTES (60): kills, full disks, fuzzing of all readers"
	@echo "make clean  remove the environment and all caches"

# Installed once, and again when the requirements change.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed, this is %d.%d. Set PYTHON=python3.12, say." % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	@touch $@

app: $(VENV)/.installed
	$(BIN)/python -m workbench app

test: lint types unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# one process a core; torch threads would only wait for each other
unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

# Wheels alone, but for one small package that publishes none.
lock: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --disable-pip-version-check --quiet "uv>=0.9,<1"
	$(BIN)/uv pip compile requirements-dev.txt --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --only-binary :all: --no-binary transformers-stream-generator --custom-compile-command "make lock" $(UPGRADE) --quiet --output-file requirements.lock
	$(BIN)/python -m tools.licences > docs/licences.md

SOAK_MINUTES ?= 60
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
