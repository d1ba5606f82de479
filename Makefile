# Every target sets up what it needs by itself: a virtual environment in .venv, in this tree.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Python keeps what it compiles, in the virtual environment. Where the caller has turned that off, each worker and each
# child process of the tests compiles everything again, which takes 5 to 12 seconds.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache

# Tests to run instead of all: make test FILE=tests/test_cost.py, make test FILE='tests/sm tests/cli'
FILE :=
CORE := attaching connection_data drivers errors pool secret session storage volumeops
# more workers than cores: some tests wait, for a process or a database
PYTEST := $(BIN)/python -m pytest -n 3

.PHONY: help demo test test-slow test-all test-durations test-cinder test-nova coverage bench fuzz check clean

help:           ## this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 16

$(STAMP): setup.cfg pyproject.toml
	@echo "xenvol: making a virtual environment in $(VENV) and installing xenvol with its development tools"
	@$(PYTHON) -m venv $(VENV) || { echo "xenvol: python3-venv is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## attach a volume of each type on a simulated pool, and show that nothing is left
	@$(BIN)/xenvol demo

test: $(STAMP)  ## the tests, without the slow sweeps (some minutes); FILE=tests/test_cost.py: those of files or directories
	$(PYTEST) -m 'not slow' $(FILE)

test-slow: $(STAMP) ## what `make test` leaves out: the long recordings, big pools, fuzzing (some minutes more)
	$(PYTEST) -m slow $(FILE)

test-all: test test-slow ## every test

test-durations: $(STAMP) ## every test, and what it costs: the slowest tests and files, in CPU, time and swept calls; takes FILE, too
	$(PYTEST) --measure $(FILE)

test-cinder:    ## a real Cinder, with our volume driver, on a simulated pool (needs MariaDB and RabbitMQ; sets up .venv-cinder)
	@PYTHON=$(PYTHON) tests/cinder/run

test-nova:      ## a real nova, with the driver of examples/nova-xenvol, on a simulated pool (needs MariaDB and RabbitMQ; sets up .venv-nova)
	@PYTHON=$(PYTHON) tests/nova/run

coverage: $(STAMP) ## the branches of the core (attach and detach) that no test takes; twice as slow as `make test`
	$(PYTEST) -m 'not slow' $(addprefix --cov=xenvol.,$(CORE)) --cov-branch --cov-report=term-missing:skip-covered $(FILE)

bench: $(STAMP) ## ratios of speeds, each against something that it names
	@for each in benchmarks/*.py; do echo; echo "$$each"; $(BIN)/python $$each || exit 1; done

fuzz: $(STAMP)  ## the readers of images, for SECONDS_EACH, 60 if it is not set
	@for each in tests/images/fuzz_*.py; do echo "$$each"; $(BIN)/python $$each -max_total_time=$${SECONDS_EACH:-60} || exit 1; done

check: $(STAMP)  ## ruff, mypy --strict and the layers of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

clean:          ## remove what the other targets made
	rm -rf $(VENV) .venv-cinder .venv-nova build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
