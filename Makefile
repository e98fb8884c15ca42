# Every target sets up by itself what it needs: a virtual environment in .venv and the package in it.

PYTHON ?= python3
VENV ?= .venv
# Pins for this machine: none where there is a GPU; see the comment in the file.
CONSTRAINTS ?= $(if $(shell command -v nvidia-smi),,constraints/cpu.txt)
# Two processes, a file of tests in one of them: what a file prepares is prepared once.
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests and tools never ask the Hub for anything.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.PHONY: help quickstart test test-slow bench check format clean
.NOTPARALLEL:

help:
	@echo "make quickstart   train a small reward model on this machine and show the result"
	@echo "make test         run the test suite"
	@echo "make test-slow    run the tests that take long"
	@echo "make bench        whole training steps against TRL's (takes an hour or more)"
	@echo "make check        lint, formatting, types"
	@echo "make format       repair what lint and formatting can repair"
	@echo "make clean        remove the environment and the caches, but no model"

quickstart: $(STAMP)-core
	@$(BIN)/hf_reward-quickstart --output_dir quickstart

test: $(STAMP)-test
	@$(OFFLINE) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(STAMP)-test
	@$(OFFLINE) $(BIN)/python -m pytest -m slow --timeout 1800

bench: $(STAMP)-test
	@$(OFFLINE) $(BIN)/python benchmarks/step_time.py --chart step_time.png

check: $(STAMP)-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# One stamp for each set of tools; it is made anew when the requirements change.
$(STAMP)-core: WHAT = hf_reward
$(STAMP)-core: PACKAGE = .
$(STAMP)-test: WHAT = hf_reward and its test tools
$(STAMP)-test: PACKAGE = .[test]
$(STAMP)-dev: WHAT = hf_reward, its test tools and its quality tools
$(STAMP)-dev: PACKAGE = .[dev]

$(STAMP)-core $(STAMP)-test $(STAMP)-dev: setup.py setup.cfg $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing $(WHAT) into $(VENV) (one to three minutes)"
	@$(BIN)/python -m pip install --quiet --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable "$(PACKAGE)"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hf_reward needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --upgrade pip
