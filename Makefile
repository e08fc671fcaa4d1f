# Two commands for a newcomer, `make demo` and `make test`. Each sets up what it needs from the
# locked, hash-checked requirements; everything it makes stays inside this folder.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Caches and temporary files stay here; the latter under a short name, since the path of a Unix
# socket has at most 107 bytes.
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export XDG_CACHE_HOME := $(CURDIR)/.cache
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
export TMPDIR := $(CURDIR)/.cache/t
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

# ARGS is handed on: make test ARGS="-k gates -x", make bench ARGS="send core"
ARGS ?=
UV ?= uv

DEV := .venv
RUN := .cache/run
MINISTACK := .cache/ministack

.PHONY: help
help:
	@echo "make demo   three products burst over one quota: watch it held (under a minute)"
	@echo "make test   run all tests"
	@echo
	@echo "make lint   style, types and layers"
	@echo "make bench  measure; figures depend on the machine"
	@echo "make lock   renew the locked requirements (needs uv)"
	@echo "make clean  remove what the others have set up"

.PHONY: demo
demo: $(RUN)/.ready
	@$(RUN)/bin/python -m dispatcher demo $(ARGS)

.PHONY: test
test: $(DEV)/.ready $(MINISTACK)/.ready
	@$(DEV)/bin/python -m pytest -p xdist.plugin -n 2 --dist worksteal --hypothesis-profile=ci $(ARGS)

.PHONY: bench
bench: $(DEV)/.ready
	@$(DEV)/bin/python benchmarks/run.py $(ARGS)

.PHONY: lint lint-style lint-format lint-types lint-layers
lint: lint-style lint-format lint-types lint-layers
lint-style: $(DEV)/.ready
	@$(DEV)/bin/python -m ruff check
lint-format: $(DEV)/.ready
	@$(DEV)/bin/python -m ruff format --check
lint-types: $(DEV)/.ready
	@$(DEV)/bin/python -m mypy
lint-layers: $(DEV)/.ready
	@$(DEV)/bin/lint-imports --cache-dir .cache/layers

# One version of everything: what runs is what has been tested.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
.PHONY: lock
lock:
	$(COMPILE) $(ARGS) pyproject.toml --extra all --group dev -o requirements/dev.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra all --constraint requirements/dev.txt -o requirements/run.txt
	$(COMPILE) $(ARGS) --group pyproject.toml:build --constraint requirements/dev.txt -o requirements/build.txt
	$(COMPILE) $(ARGS) --group pyproject.toml:ministack -o requirements/ministack.txt

.PHONY: clean
clean:
	rm -rf .venv .cache build dist

# -- Environments: made once, and again when their lock changes -----------------------------------

$(DEV)/.ready: $(DEV)/.locked pyproject.toml
	@$(DEV)/bin/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(RUN)/.ready: $(RUN)/.locked
	@touch $@

$(MINISTACK)/.ready: $(MINISTACK)/.locked
	@touch $@

$(DEV)/.locked: requirements/dev.txt
$(RUN)/.locked: requirements/run.txt
$(MINISTACK)/.locked: requirements/ministack.txt

%/.locked:
	@mkdir -p "$(TMPDIR)"
	@.ci/environment $* $<
	@touch $@
