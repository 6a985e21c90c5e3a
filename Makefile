# Two commands for a fresh machine: `make run` and `make test`. The gate is `make check`.
# Second runs are quick: what is installed is not installed again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help run test check format check-windows clean environment debian-packages node-packages

help:  ## what there is to say
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## install into .venv and start Mailroot in the foreground, with its embedded defaults
	@exec $(BIN)/mailroot run

test: environment debian-packages node-packages $(VENV)/.kerberos  ## set up what the tests need and run them (TESTS=tests/queue for some of them)
	$(BIN)/python -m pytest $(TESTS)

check: environment  ## the gate: format, lint, types, import contracts, dead code, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/vulture
	@$(MAKE) --no-print-directory test

check-windows: environment  ## the quick tests on Windows CPython under Wine
	@scripts/windows.sh test

format: environment  ## format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove everything that the other commands made (not the mailroot folder: there may be mail in it)
	rm -rf $(VENV) .peers .wine build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

environment: $(VENV)/.test $(VENV)/.peers

debian-packages:
	@scripts/debian-packages.sh tests

node-packages: debian-packages
	@scripts/node-packages.sh

$(VENV)/bin/python:
	@scripts/new-venv.sh '$(PYTHON)' '$(VENV)'

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Mailroot into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Mailroot and what its tests and checks need into $(VENV)"
	@$(PIP) install --upgrade 'pip>=25.1,<27'
	@$(PIP) install --editable . --group test --group check
	@touch $@ $(VENV)/.run

# The extra 'kerberos' is compiled. Where that cannot be done, the tests of Kerberos say so.
$(VENV)/.kerberos: pyproject.toml | $(VENV)/.test debian-packages
	@$(PIP) install --editable '.[kerberos]' || { echo "make: the extra 'kerberos' cannot be installed here" >&2; [ -z "$$CI" ]; }
	@touch $@

# Microsoft's .NET for one of the clients in tests/peers. Where it cannot be had, that client's tests say so.
$(VENV)/.peers: pyproject.toml | $(VENV)/.test
	@$(PIP) install --group peers || { echo "make: the packages of the group 'peers' cannot be installed here" >&2; [ -z "$$CI" ]; }
	@touch $@
