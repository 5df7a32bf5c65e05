# For working on Barevisor. Users need only the README's two commands.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: build lint test clean

build:  ## compile the Cython modules in place
	$(PYTHON) setup.py -q build_ext --inplace

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: build  ## the working tree, not the installed package
	PYTHONPATH=src $(PYTHON) -m pytest

clean:
	git clean -Xdfq -e '!.venv'
