# Needs Python 3.11, make and a package index; makes .venv by itself.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test lint bench bench-smoke clean

help:
	@echo "make demo    install, then run the whole street on real cells (minutes); open demo/index.html"
	@echo "make test    install the test tools, then run every test that can run here"
	@echo "make lint    ruff, mypy and the import layers"
	@echo "make bench   measure ourselves and the alternatives; writes docs/benchmarks/"

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/syncytium demo --output demo

test: $(VENV)/.installed-dev
	$(PYTEST) -n 3 --dist loadgroup --no-loadscope-reorder --durations 15

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks

bench-smoke: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks --smoke

clean:
	rm -rf build demo
