# For working on Barevisor. Users need only the README's two commands.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: build lint test nested clean

build:  ## compile the Cython modules in place
	$(PYTHON) setup.py -q build_ext --inplace

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: build  ## the working tree, not the installed package
	PYTHONPATH=src $(PYTHON) -m pytest

nested: build  ## the kvm engine on a stock kernel's /dev/kvm, in a nest
	PYTHONPATH=src $(PYTHON) -m pytest --nest --long tests/nested tests/kvm

clean:
	git clean -Xdfq -e '!.venv'
