# Everything a contributor runs. Works with GNU make 3.81 (macOS) too: no .ONESHELL, no grouped targets.
#
#   PYTHON=python3.12 make setup     another interpreter (>= 3.11)
#   make test ARGS="-k traffic"      more for pytest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
ARGS ?=
FUZZ_S ?= 600
REGISTRY ?= localhost/headgate
# Two processes: what the smallest machine we promise to work on has. Files stay whole, because their fixtures are.
WORKERS ?= 2
# With ARGS="-k word" one of the two runs may select nothing (pytest's exit 5).
NONE_IS_FINE := $(if $(ARGS),|| test $$? -eq 5)
COMPILED := build/compiled
TESTS_COMPILED := tests/integration/test_compiled.py tests/traps tests/property/test_protocol.py \
	tests/property/test_choose.py tests/integration/test_router_*.py tests/integration/test_copies.py tests/integration/test_tunnel*.py \
	$(foreach part,auth choose client count headers limits mirror refusals streams swap upstream,tests/unit/test_$(part).py)
PACKAGES := core policies pipelines controllers router serving console

.DEFAULT_GOAL := help
.PHONY: help setup demo test compile test-compiled fuzz soak e2e check lint format types layers golden manifests bench-control bench-judgement bench-router bench-cluster docs images lock clean

help:  ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## An environment in .venv, from requirements.lock; at once when nothing changed

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=python3.12 make setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# uv first, by its own lines of the lock: it installs the rest in a tenth of pip's time.
	awk '/^[^ #]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup  ## The whole story in two minutes: commits become traffic, bad ones are taken back
	$(BIN)/headgate demo $(ARGS)

test: setup  ## All tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --ignore tests/e2e --ignore tests/faults $(ARGS) $(NONE_IS_FINE)
	@# One after the other: these measure a whole system, and each takes the machine for itself.
	$(BIN)/python -m pytest tests/e2e tests/faults $(ARGS) $(NONE_IS_FINE)

compile: $(COMPILED)/.ready  ## The router's data path as machine code, in build/compiled; needs a C compiler

$(COMPILED)/.ready: $(STAMP) install/compile.py $(shell find core router -name '*.py')
	rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	cp -R core/. router/. $(COMPILED)
	$(BIN)/python install/compile.py $(COMPILED) > $(COMPILED)/compile.log
	@touch $@

test-compiled: compile  ## The tests of the data path, on what `make compile` made
	HEADGATE_COMPILED=1 PYTHONPATH=$(CURDIR)/$(COMPILED) $(BIN)/python -m pytest $(TESTS_COMPILED) $(ARGS)

fuzz: setup  ## The router's parsers on random bytes for long; then guided by coverage (extra `fuzz`) for FUZZ_S=600
	HEADGATE_FUZZ=100 $(BIN)/python -m pytest tests/property/test_protocol.py $(ARGS)
	$(BIN)/python tests/fuzz/protocol.py -max_total_time=$(FUZZ_S)

soak: setup  ## The split at 20,000 requests a case; a million through a thousand tables and faults; soak.json
	HEADGATE_SOAK=10 $(BIN)/python -m pytest tests/integration/test_split.py
	$(BIN)/python -m bench.soak $(ARGS)

check: lint types layers test  ## All there is to hold: format, lint, types, layers, tests

lint: setup  ## Format and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup  ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup  ## mypy --strict
	$(BIN)/mypy

layers: setup  ## Who may import whom
	$(BIN)/lint-imports

golden: setup  ## Rewrite tests/golden; read the diff before you commit it
	HEADGATE_GOLDEN=write $(BIN)/python -m pytest tests/golden $(ARGS)

bench-control: setup  ## Measure revert, engine, plan, validation, memory; writes bench/results/control.json
	$(BIN)/python -m bench.control $(ARGS)

bench-judgement: setup  ## Gates against what others do, on simulated traffic; writes bench/results/judgement.json
	$(BIN)/python -m bench.judgement $(ARGS)

bench-router: setup  ## Routers side by side: ours, nginx, haproxy, Envoy, FastAPI; writes bench/results/router.json
	$(BIN)/python -m bench.router $(ARGS)

manifests: setup  ## Regenerate install/ from code and chart; needs helm ($HELM, or on the PATH)
	$(BIN)/python install/generate.py

e2e: setup  ## On the cluster of KUBECONFIG: installs into namespaces of its own, tells the story, leaves nothing
	HEADGATE_E2E=cluster $(BIN)/python -m pytest -x tests/e2e/cluster $(ARGS)

bench-cluster: setup  ## A thousand endpoints on the cluster of KUBECONFIG; writes bench/results/cluster.json
	$(BIN)/python -m bench.cluster $(ARGS)

docs: setup  ## Regenerate what is made from code in docs/ and repo-template/; check links
	$(BIN)/python docs/generate.py

# make images REGISTRY=registry.example/team TAG=0.1 BASE=... PUSH=1   (INSECURE=1: plain HTTP; WHEELS=folder: no index;
#             COMPILER=...: what the data path is compiled on; PLAIN=1: it is not;
#             WITH_ENVOY=1: the router with Envoy, too)
images: setup  ## Build the images of router, runner and controller with buildah or docker; digests in dist/images.json
	$(BIN)/python install/images/build.py --registry $(REGISTRY) $(if $(TAG),--tag $(TAG)) $(if $(BASE),--base $(BASE)) \
		$(if $(COMPILER),--compiler $(COMPILER)) $(if $(PLAIN),--plain) $(if $(WITH_ENVOY),--envoy) $(if $(WHEELS),--wheels $(WHEELS)) \
		$(if $(PUSH),--push) $(if $(INSECURE),--insecure)

lock: setup  ## Resolve requirements.lock again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --extra dev -o requirements.lock pyproject.toml

clean:  ## Remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find $(PACKAGES) tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +
