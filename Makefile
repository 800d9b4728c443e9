# `make help` lists the targets. Each one sets up what it needs.
METHOD  ?= sparsegpt
BACKEND ?= transformers
MODEL   ?=
SETTING ?=
DEVICE  ?= auto
RUNTIME ?= auto
PYTHON  ?= python3
ARGS    ?=

ORCHESTRATOR := .venv/bin/orchestrator
PIP_INSTALL := .venv/bin/python -m pip install --progress-bar off --no-deps
# What pip says (warnings of index locations that are not there, say) is shown where it fails.
PIP_LOG := >.venv/pip.log 2>&1 || { tail -n 20 .venv/pip.log >&2; echo 'pip failed; all that it said is in .venv/pip.log' >&2; exit 1; }
# What is imported is compiled once, for every worker and every process that a test starts: uv leaves no bytecode.
COMPILED := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX='$(CURDIR)/.venv/bytecode'
PYTEST := $(COMPILED) OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n logical
.DEFAULT_GOAL := help
.PHONY: help setup bench check test mutants lint images base-image schema clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  bench takes METHOD BACKEND MODEL SETTING DEVICE RUNTIME, and ARGS for further options of 'orchestrator bench'"

setup: .venv/.orchestrator ## install the orchestrator into .venv

.venv/.orchestrator: requirements/orchestrator.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=python3.12")'
	@echo "installing the orchestrator into .venv: $$(grep -c == requirements/orchestrator.txt) packages" >&2
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) --require-hashes -r requirements/orchestrator.txt $(PIP_LOG)
	@$(PIP_INSTALL) --no-build-isolation --editable . $(PIP_LOG)
	@touch $@

.venv/.development: .venv/.orchestrator requirements/dev.txt
	@echo 'installing what the tests need into .venv' >&2
	@$(ORCHESTRATOR) images install-lock requirements/dev.txt >&2
	@touch $@

.venv/.mutants: .venv/.development requirements/mutants.txt
	@$(PIP_INSTALL) --require-hashes -r requirements/mutants.txt $(PIP_LOG)
	@touch $@

bench: setup ## compress a model, compare it with the dense one on all tracks
	@$(ORCHESTRATOR) bench --method '$(METHOD)' --backend '$(BACKEND)' --model '$(MODEL)' --setting '$(SETTING)' --device '$(DEVICE)' --runtime '$(RUNTIME)' $(ARGS)

check: lint ## check style, layers and types, and run the tests that need neither Docker, nor a network, nor minutes
	$(PYTEST) --dist worksteal -m 'not docker and not network and not slow' $(ARGS)

test: .venv/.development ## run all tests; those that need Docker or a network are skipped where there is none
	$(PYTEST) --dist loadfile $(ARGS)

mutants: .venv/.mutants ## seed small faults one at a time and name those that no test notices; minutes a file, never in CI
	OMP_NUM_THREADS=1 .venv/bin/python -m mutmut run $(ARGS)
	.venv/bin/python -m mutmut results

lint: .venv/.development ## check style, layers and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache
	.venv/bin/mypy

base-image: setup ## make the base image: from a registry where one is reachable, else with debootstrap
	$(ORCHESTRATOR) images base

images: setup ## build all images for this machine's device
	$(ORCHESTRATOR) images build

schema: .venv/.development ## write the contract's schema and the images' options from the models
	.venv/bin/python -m harness.contract.schema
	.venv/bin/python -m harness.option_schemas images

clean: ## free what no run refers to
	@test -x $(ORCHESTRATOR) && $(ORCHESTRATOR) clean || true
