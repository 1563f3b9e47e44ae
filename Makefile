# The targets of the README. A fresh machine needs Python 3.11 or newer, and nothing else.
PYTHON ?= python3
VENV := .venv
# The default build of torch brings several GB of CUDA; this pin takes a CPU build where one is at hand (README, "Installing").
TORCH ?= torch==2.13.0
ARGS ?=
# Processes that tests run in; most of them wait for services that they start.
WORKERS ?= 2

.PHONY: run test bench install clean

run: $(VENV)/installed
	$(VENV)/bin/mirall demo $(ARGS)

test: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

# How fast the doors are, beside Orthanc where it is installed; ARGS="--share 0.2 --repetitions 1" is a quick look.
bench: $(VENV)/installed-dev
	$(VENV)/bin/python tests/benchmarks/doors.py $(ARGS)

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml deploy/constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --constraint deploy/constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --constraint deploy/constraints.txt --editable ".[dev]"
	# The oracle for SUV. It asks for itk (1.5 GB), which it needs for other formats only; the rest of its needs is in [dev].
	$(VENV)/bin/python -m pip install --quiet --no-deps mirp==2.7.0
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
