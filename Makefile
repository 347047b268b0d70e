# Two commands: `make demo` and `make test` set up all they need in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The torch to install. On a machine with its own (a GPU build, say): make demo TORCH= VENV_FLAGS=--system-site-packages
TORCH  ?= torch==2.13.0
VENV_FLAGS ?=
EXTRAS := train,dev
STAMP  := $(VENV)/.installed

.PHONY: setup demo test lint format bench bench-claim bench-judge bench-collect constraints clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)

demo: setup
	$(BIN)/persd demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix src tests bench
	$(BIN)/ruff format src tests bench

bench: setup
	$(BIN)/python bench/sample.py

# What the embedded family says of the method: under ten minutes on two cores (50 without --quick).
bench-claim: setup
	$(BIN)/python bench/claim.py --quick

# The judge against its peers, which it installs beside itself (about 800 MB); a few minutes.
bench-judge: setup
	$(BIN)/python bench/judge.py

# Asking a served teacher against its floors and peers, installed like those (about 1.5 GB); ten minutes.
bench-collect: setup
	$(BIN)/python bench/collect.py

constraints: setup
	@echo "# Pinned versions of everything 'make setup' installs; 'make constraints' writes it anew." > constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(torch|pip|setuptools|nvidia|triton)' >> constraints.txt

clean:
	rm -rf $(VENV) bench/.peers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
