# make demo   sets itself up, makes a small data set of real videos, trains AdaTAD and head-only on it, evaluates, draws
# make real   fetches real weights (I3D, Kinetics-400), says what videos show, and trains from them and from random ones
# make test   sets itself up, runs the tests (make test-slow: the long ones too): first those of numbers, under the
#             compiler's usual settings, then those of plumbing, compiled quickly
# make lint   checks format and style

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: demo real test test-slow lint

demo: $(VENV)/.ready
	$(BIN)/python -m tadjax.demo --workdir=runs/demo

real: $(VENV)/.ready
	$(BIN)/python -m tadjax.real --workdir=runs/real

test: $(VENV)/.ready-test
	$(PYTEST) -m "numbers and not slow"; numbers=$$?; $(PYTEST) --quick && exit $$numbers

test-slow: $(VENV)/.ready-test
	$(PYTEST) -m numbers; numbers=$$?; $(PYTEST) --quick -m "not numbers" && exit $$numbers

lint: $(VENV)/.ready-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

$(VENV)/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; give one with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@
