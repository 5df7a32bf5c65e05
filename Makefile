# For working on Barevisor. Users need only the README's two commands.
PYTHON ?= python3

.PHONY: build lint test clean

build:  ## compile the Cython modules in place
	$(PYTHON) setup.py -q build_ext --inplace

lint:
	ruff check . && ruff format --check . && mypy

test: build
	$(PYTHON) -m pytest

clean:
	git clean -Xdf -e '!.venv'
