# Two commands do everything: `make demo` and `make test`. Both make .venv on first use.
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check lint clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    set up, then train on a small procedural set and render a real photograph (outputs/demo)"
	@echo "make test    set up, then run the default tests (CPU, no network, minutes)"
	@echo "make check   everything a change must pass: linters, types, architecture, tests"
	@echo "make clean   remove .venv and outputs/"

# Installed again whenever what is to be installed changes; a half-made environment is never taken for a whole one.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("bokehdiff needs Python 3.10 or newer; got " + sys.version.split()[0] + ". Pass another: make demo PYTHON=python3.12")'
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing (about 6 GB on Linux, where torch brings CUDA; a few minutes) ..."
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/python -m bokehdiff demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf $(VENV) outputs
