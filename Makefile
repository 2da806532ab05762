# Every target makes what it needs. PYTHON=python3.12 make train takes another Python for .venv.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# A process for each core. One whose list is done takes half of what is left of another one's: neighbours, which
# share fixtures, stay together, and a long file is shared out.
PARALLEL := -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install train test test-fast test-nightly test-peers check format docs wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: .venv/installed  ## make .venv with the pinned packages

train: .venv/installed  ## train on the built-in data; make train ARGS="encoder=resnet34 neck=fpn"
	$(BIN)/python -m segkit.train $(ARGS)

test: .venv/installed-dev  ## run the tests; make test ARGS="-k unet -n 0"
	$(BIN)/python -m pytest $(PARALLEL) -m "not nightly and not peers" $(ARGS)

test-fast: .venv/installed-dev  ## run the unit tests only
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not nightly and not peers" $(ARGS)

test-nightly: .venv/installed-dev  ## run the full crosses, the browser and the installations
	$(BIN)/python -m pytest $(PARALLEL) -m nightly $(ARGS)

test-peers: .venv/installed-peers  ## compare with other libraries, which it installs
	$(BIN)/python -m pytest -m peers $(ARGS)

check: .venv/installed-dev  ## ruff, format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed-dev  ## write the pages that are made from the code
	$(BIN)/python docs/write_options.py
	$(BIN)/python docs/write_choosing.py
	$(BIN)/python docs/draw_augmentation.py

wheel: .venv/installed-dev  ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove .venv, builds and caches; runs/ stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "segkit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/installed-peers: .venv/installed-dev
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev,peers]'
	@touch $@
