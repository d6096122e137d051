# `make help` lists the targets. Each of them sets up .venv first, so a fresh clone needs no other step.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# The first Python that is new enough; `make PYTHON=/path/to/python …` chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PORT ?= 8080
ONCE ?=
DATA ?= .data
WORKERS ?= 2
COUNT ?= 240
SEED ?= 1
# Tables that take minutes; storage, rows, history, large and scales_study take longer and are run by their names.
BENCHMARKS ?= first_order small noise curvature jacobian latency api

# The index of torch's CPU build, for `make lock` and `make setup`; empty, torch comes from pip's own index.
TORCH_INDEX ?=
UPGRADE ?=

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONSTRAINTS := constraints/cpu.txt constraints/locked.txt
HASHES := constraints/hashes.txt

.PHONY: help setup run test test-all check mutate format bench openapi documents lock release clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything in it

$(READY): pyproject.toml $(CONSTRAINTS) $(HASHES)
	@test -n "$(PYTHON)" || { echo "gradinspect needs Python 3.11 or newer; install one, or say make PYTHON=/path/to/it" >&2; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version): about a minute, once."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) --require-hashes --no-deps -r $(HASHES)
	@$(PIP) $(CONSTRAINTS:%=-c %) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@$(PIP) --no-deps -e .
	@touch $(READY)

run: $(READY) ## Start the service and inspect two models on it (PORT=8080, ONCE=1 stops after the reports)
	@exec $(BIN)/python examples/first_run.py --port $(PORT) --data-dir $(DATA) $(if $(ONCE),--once)

test: $(READY) ## Run everything that continuous integration runs: lint, types, arrows, tests on real servers
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" --cov --cov-report=
	@$(BIN)/python -m coverage report | awk 'NR <= 12 || /^TOTAL/'

test-all: $(READY) ## The same, with the studies that take minutes
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --timeout 3600

check: $(READY) ## Lint, types, arrows and the fast tests, in under a minute
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" tests/contracts tests/rules/test_each_rule.py tests/report tests/test_architecture.py

mutate: $(READY) ## Change the code at random places and see that a test fails (COUNT=240, SEED=1; half an hour)
	@$(BIN)/python -m tests.mutation --count $(COUNT) --seed $(SEED) --map .mutation

.PHONY: lint
lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run make format" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(READY) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## Print the tables of benchmarks/ that finish within minutes
	@for program in $(BENCHMARKS); do echo; echo "# $$program"; $(BIN)/python -m benchmarks.$$program || exit 1; done

openapi: $(READY) ## Write openapi.json anew
	@$(BIN)/python -m service.openapi_document > openapi.json.new && mv openapi.json.new openapi.json

documents: $(READY) ## Write the generated pages of docs/ anew
	@$(BIN)/python -m gradinspect.rules.document > docs/rules.md.new && mv docs/rules.md.new docs/rules.md
	@$(BIN)/python -m service.settings_document > docs/settings.md.new && mv docs/settings.md.new docs/settings.md
	@$(BIN)/python -m gradinspect.testing.sick_networks > docs/sick-networks.md.new && mv docs/sick-networks.md.new docs/sick-networks.md

lock: $(READY) ## Resolve constraints/ anew, with hashes; UPGRADE=1 takes newer versions, TORCH_INDEX names torch's index
	@$(PIP) uv
	@for lock in hashes server; do \
		$(BIN)/uv pip compile pyproject.toml --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 \
			$$([ $$lock = server ] && echo --extra server || echo --extra all --extra dev) --no-emit-package torch \
			-c constraints/cpu.txt $(if $(UPGRADE),--upgrade,-c constraints/locked.txt) \
			$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match) \
			--output-file constraints/$$lock.txt || exit 1; \
	done
	@{ sed '/^[^#]/d' constraints/locked.txt; sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' $(HASHES); } > locked.new
	@mv locked.new constraints/locked.txt

release: $(READY) ## Build sdist and wheel, install the wheel elsewhere and use it there; nothing is uploaded
	@PYTHON=$(PYTHON) .ci/release

clean: ## Remove .venv, the embedded service's data and all caches
	@rm -rf .venv $(DATA) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .mutation
