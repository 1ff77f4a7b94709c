# `make demo` or `make test` on a fresh clone needs python3 (3.11 to 3.13) and make, nothing else.
# `make test PYTHON=python3.12` tries another one, in an environment of its own.
PYTHON ?= python3
VERSION := $(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
VENV := .venv$(VERSION)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test servers lint format bench soak clean

help:  ## list what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/'

venv: $(READY)  ## make .venv and install into it (the others do this by themselves)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,tensorflow]'
	touch $@

demo: $(READY)  ## serve one model while another loads, and measure it
	$(BIN)/asyncload demo $(ARGS)

test: $(READY) servers  ## run the test suite, in a process for each CPU
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

servers:  ## install what is missing of the servers that tests run against (apt, npm)
	tests/servers/install.sh

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) servers  ## all benchmarks beside what they compare with; JSON into .cache/bench
	mkdir -p .cache/bench
	$(BIN)/python benchmarks/bench_keras.py --json .cache/bench/keras.json $(ARGS)
	$(BIN)/python benchmarks/bench_weights.py --json .cache/bench/weights.json $(ARGS)
	$(BIN)/python benchmarks/bench_saved_model.py --json .cache/bench/saved_model.json $(ARGS)
	$(BIN)/python benchmarks/bench_formats.py --json .cache/bench/formats.json $(ARGS)
	$(BIN)/python benchmarks/bench_object.py --json .cache/bench/object.json $(ARGS)
	$(BIN)/python benchmarks/bench_loop.py --json .cache/bench/loop.json $(ARGS)
	$(BIN)/python benchmarks/bench_serving.py --json .cache/bench/serving.json $(ARGS)

soak: $(READY)  ## load, cancel and fail for minutes; memory, descriptors and processes must stay level
	$(BIN)/python benchmarks/soak.py $(ARGS)

clean:  ## remove .venv and every cache
	rm -rf .venv .venv-* .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
