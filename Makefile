# make demo: the three jobs on the bundled model.  make test: lint, types and all tests.
# Both make .venv and install into it first; neither needs any other step.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# Threads that spin while they wait starve on a busy machine: docs/log.md has the figures.
export GOMP_SPINCOUNT ?= 2000

.PHONY: demo test check format kernels clean

demo: $(VENV)/.installed
	$(RUN) examples/demo.py

# Two tests at a time with a thread each: on two cores 8 minutes, where one with two takes over 10.
test: check
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

check: $(VENV)/.installed-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# Compiled kernels for packed weights (phisight quantize): an option, with any C compiler.
kernels: $(VENV)/.installed
	$(RUN) -m phisight.kernels.native

format: $(VENV)/.installed-dev
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "phisight needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

DOWNLOAD := "installing into $(VENV): PyTorch and some small libraries (on Linux about 3 GB with CUDA, \
200 MB for the CPU build; README.md says how to get that one)"

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo $(DOWNLOAD)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo $(DOWNLOAD)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed
