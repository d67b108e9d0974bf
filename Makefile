# Everything a fresh machine needs: Python >= 3.11, git and make. `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test acceptance chaos lint format lock bench bundle clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: $(VENV)/run.stamp ## Serve this checkout as workspace "offhand", and send one webhook to try it
	@exec $(BIN)/offhand serve --workspace offhand="$(CURDIR)" --hello offhand

test: $(VENV)/dev.stamp ## Run the tests and the checks that need no other program
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

acceptance: $(VENV)/dev.stamp ## Run real clients against the server as it ships
	$(BIN)/python -m pytest -q -m acceptance -n 3 --dist loadfile tests/acceptance $(ARGS)

chaos: $(VENV)/dev.stamp ## Kill servers and supervisors 200 times over 1,000 tasks, and account for everything
	$(BIN)/python -m tests.chaos $(ARGS)
	$(BIN)/python -m tests.chaos --namespaces off --tasks 300 --kills 60
	$(BIN)/python -m tests.chaos.commits

lint: $(VENV)/dev.stamp ## Format check, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/dev.stamp ## Pin every dependency anew
	$(PIP) install 'uv>=0.9'
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --custom-compile-command 'make lock' --group build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --custom-compile-command 'make lock' --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

bench: $(VENV)/run.stamp ## Measure the promises in numbers
	$(BIN)/python -m benchmarks

bundle: $(VENV)/dev.stamp ## Build dist/offhand-VERSION.mcpb, which desktop apps install by a double click
	@$(BIN)/python -m bundle.build

clean: ## Remove what the other targets made in this folder
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Offhand needs Python 3.11 or newer with venv (on Debian: apt install python3-venv). Or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the locked dependencies into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	@echo "Installing the locked tools for tests and checks ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
