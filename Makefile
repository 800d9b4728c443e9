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
.PHONY: help setup ae-smoke ae-small ae-full bench check test audit mutants lint site pages release ray images base-image schema clean

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

# pip-audit brings a pip of its own, so it gets an environment of its own.
.venv/.audit: .venv/.orchestrator requirements/audit.txt
	@$(PYTHON) -m venv .venv/audit
	@.venv/audit/bin/python -m pip install --progress-bar off --no-deps --require-hashes -r requirements/audit.txt $(PIP_LOG)
	@touch $@

.venv/.ray: .venv/.orchestrator requirements/ray.txt
	@$(PIP_INSTALL) --require-hashes -r requirements/ray.txt $(PIP_LOG)
	@touch $@

.venv/.clusters: .venv/.development requirements/clusters.txt
	@$(PIP_INSTALL) --require-hashes -r requirements/clusters.txt $(PIP_LOG)
	@touch $@

.venv/.docs: .venv/.orchestrator requirements/docs.txt
	@$(PIP_INSTALL) --require-hashes -r requirements/docs.txt $(PIP_LOG)
	@touch $@

bench: setup ## compress a model, compare it with the dense one on all tracks
	@$(ORCHESTRATOR) bench --method '$(METHOD)' --backend '$(BACKEND)' --model '$(MODEL)' --setting '$(SETTING)' --device '$(DEVICE)' --runtime '$(RUNTIME)' $(ARGS)

# Of a manifest: run it, pack it, verify the file, run that again. Processes, unless a runtime is named: no registry of images is needed.
AE := build/artifacts
AE_RUNTIME := $(if $(filter auto,$(RUNTIME)),process,$(RUNTIME))
define artifact-of
	@mkdir -p $(AE)
	$(ORCHESTRATOR) run $(1) --store $(AE)/$(1) --runtime $(AE_RUNTIME) --device $(DEVICE)
	$(ORCHESTRATOR) artifact pack last --store $(AE)/$(1) --output $(AE)/$(1).tar.zst
	$(ORCHESTRATOR) artifact verify $(AE)/$(1).tar.zst
	$(ORCHESTRATOR) artifact reproduce $(AE)/$(1).tar.zst --store $(AE)/$(1)-again $(2) $(ARGS)
endef

ae-smoke: setup ## artifact evaluation: the smallest run measured, packed, verified and run again; minutes, with PyPI alone
	$(call artifact-of,smoke,)

ae-small: setup ## the same of the quick manifest and a sample of ten stages; half an hour on two cores, with PyPI alone
	$(call artifact-of,quick,--stages 10)

ae-full: setup ## the reference results of this repository verified, and run again; needs an NVIDIA GPU and the data sets
	$(ORCHESTRATOR) artifact verify benchmarks/h200/reference.tar.zst
	$(ORCHESTRATOR) artifact reproduce benchmarks/h200/reference.tar.zst --store $(AE)/reference-again $(ARGS)

check: lint ## check style, layers and types, and run the tests that need neither Docker, nor a network, nor minutes
	$(PYTEST) --dist worksteal -m 'not docker and not network and not slow' $(ARGS)

test: .venv/.development ## run all tests; those that need Docker or a network are skipped where there is none
	$(PYTEST) --dist loadfile --no-loadscope-reorder $(ARGS)

audit: .venv/.audit ## ask a vulnerability service about every package of every lock; needs PyPI, or ARGS='--osv-url ADDRESS'
	@.venv/bin/python requirements/audit.py --pip-audit .venv/audit/bin/pip-audit $(ARGS)

mutants: .venv/.mutants ## seed small faults one at a time and name those that no test notices; minutes an area, never in CI
	.venv/bin/python -m tests.seeded_faults $(ARGS)

lint: .venv/.development ## check style, layers and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache
	.venv/bin/mypy

site: .venv/.docs ## build the documents as a site into build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet

pages: setup ## write the pages of docs/ that are made from the code
	.venv/bin/python -m pages.write

release: site ## build wheel, source archive, site and SBOM of a tagged commit into dist/; ARGS=--trial of any
	@.ci/release $(ARGS)

ray: .venv/.ray ## install what `run --executor ray` needs, on each node of a cluster alike

base-image: setup ## make the base image: from a registry where one is reachable, else with debootstrap
	$(ORCHESTRATOR) images base

images: setup ## build all images for this machine's device
	$(ORCHESTRATOR) images build

schema: .venv/.development ## write the schemas of the contract, manifests, reports and decisions, and the images' options, from the models
	.venv/bin/python -m harness.contract.schema
	.venv/bin/python -m orchestrator.manifest.schema
	.venv/bin/python -m orchestrator.report.schema
	.venv/bin/python -m harness.option_schemas images

clean: ## free what no run refers to
	@test -x $(ORCHESTRATOR) && $(ORCHESTRATOR) clean || true
