# Set-up commands of the README: `make sample` and `make test` need only Python 3.10+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Tests run side by side, with one torch thread each.
WORKERS ?= 2
# What must hold on every path of computation.
COMPILED := tests/samplers/test_protocol.py tests/samplers/test_hmc.py tests/samplers/test_sghmc.py

.PHONY: sample test test-all mutants fuzz lint format bench uci clean

sample: $(INSTALLED)
	$(BIN)/python -m hmc_fast.sample

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not statistical and not gpu"

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not gpu"
	$(BIN)/python -m pytest -n $(WORKERS) --path traced $(COMPILED)
	$(BIN)/python -m pytest -n $(WORKERS) --path loop $(COMPILED)

# Defects that the fast tests must catch (tests/mutants.py): some minutes.
mutants: $(INSTALLED)
	$(BIN)/python tests/run_mutants.py

# Odd flags and damaged files, NUMBER of each kind; every run tries others.
NUMBER ?= 1000
fuzz: $(INSTALLED)
	HMC_FAST_FUZZ=$(NUMBER) $(BIN)/python -m pytest -m "not slow" tests/fuzz

# hmc_fast.kernels lives in kernels/: the type checker is shown the tree as it is installed.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types && cp -r hmc_fast build/types/ && cp -r kernels build/types/hmc_fast/
	$(BIN)/mypy build/types/hmc_fast

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The timing suites, under a quarter of an hour on two idle CPU cores. A peer that does different work fails, after
# the rows of all others are written.
bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[peers]" --no-build-isolation
	mkdir -p build
	status=0; $(BIN)/python -m pytest benchmarks -rs --benchmark-json build/benchmarks.json || status=$$?; \
		$(BIN)/python benchmarks/tidy.py build/benchmarks.json benchmarks/results/cpu && \
		$(BIN)/python benchmarks/plot.py benchmarks/results/cpu && exit $$status

# RMSE and log-likelihood on three UCI sets: make uci DATA=folder
DATA ?= data
uci: $(INSTALLED)
	$(BIN)/python -m benchmarks.uci --data-dir $(DATA)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e ".[dev]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) build *.egg-info
