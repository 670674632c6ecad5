# Needs Python 3.11 or newer and make; everything else goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
BIN := .venv/bin
STAMP := .venv/.installed
DEMO := runs/demo

# One thread for each process: tests and candidates run beside each other.
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo test test-slow bench lint format docs clean

help:
	@echo "make install    create .venv with everything at the pinned versions"
	@echo "make demo       evolve small architectures on real text and compare them with the baselines"
	@echo "make test       tests (make test-slow: the long ones)"
	@echo "make bench      time operators, training, decoding and a search beside their peers; tables go to benchmarks/results"
	@echo "make lint       ruff and mypy (make format: mend what ruff can)"
	@echo "make docs       write docs/operators.md from the tables in the code"
	@echo "make clean      remove .venv and caches; runs and checkpoints stay"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "STAR needs Python 3.11 or newer, but $(PYTHON) is older; try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	$(BIN)/star evolve demo --run $(DEMO)
	$(BIN)/star compare $(DEMO)
	$(BIN)/star report $(DEMO)

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -n 2 -m slow

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "mambapy>=1.2" "x-transformers>=2" einx einops loguru frozendict torch-einops-utils
	$(BIN)/python benchmarks/operators.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/throughput.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python -m star.genome.reference docs/operators.md

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis dist
