# Every target works on a fresh Debian 12 or Ubuntu 24.04, and does nothing twice.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

BIN := .venv/bin
STAMPS := .venv/.stamps
EXTENSIONS := $(wildcard dedupfs/*/_*.c)
INSTALLED := $(STAMPS)/installed
DEV_INSTALLED := $(STAMPS)/dev-installed

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: system-build $(INSTALLED) ## Make .venv with dedupfs in it: .venv/bin/dedupfs

.PHONY: demo
demo: install-dev ## Four ranks write the same data at once, the disk holds one copy
	$(BIN)/python tests/demo/four_ranks.py $(ARGS)

.PHONY: test
test: install-dev system-test ## Run the tests; ARGS="-k name" to choose
	$(BIN)/python -m pytest $(ARGS)

.PHONY: clients
clients: install-dev system-test ## Run real libraries over a mount (installs about 2 GB into .clients)
	$(BIN)/python -m pytest tests/clients -m clients $(ARGS)

.PHONY: crash
crash: install-dev system-test ## Kill and cut the power hundreds of times (root, about half an hour)
	DEDUPFS_CRASH=long $(BIN)/python -m pytest tests/crash -o faulthandler_timeout=0 $(ARGS)

.PHONY: image
image: ## Build the container image and prove its mounts (root; docker or podman)
	docker/test $(ARGS)

.PHONY: dist
dist: install-dev ## Build wheel and sdist into dist/, install each in a clean environment, try it
	rm -rf dist build
	$(BIN)/python -c 'from setuptools import build_meta as b; b.build_sdist("dist"); b.build_wheel("dist")' >/dev/null
	$(BIN)/python -m pytest tests/dist -m dist $(ARGS)

.PHONY: lint
lint: install-dev ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: install-dev system-test ## Print savings and speed beside a plain directory
	$(BIN)/python -m pytest tests/bench -m bench -s --timeout=0 $(ARGS)

.PHONY: audit
audit: ## Ask for known vulnerabilities of the locked dependencies (needs the network)
	python3 -m venv .audit && .audit/bin/pip -q install pip-audit
	.audit/bin/pip-audit --disable-pip --require-hashes -r requirements.lock

.PHONY: screens
screens: install-dev ## Make the pictures of the README anew (installs chromium)
	scripts/system-packages browser
	$(BIN)/python tests/demo/screens.py

.PHONY: lock
lock: ## Write the lock files anew from pyproject.toml (needs uv)
	scripts/lock

.PHONY: clean
clean: ## Remove .venv, caches and build leftovers
	rm -rf .venv .audit .bench .clients build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: install-dev
install-dev: system-build $(DEV_INSTALLED)

.PHONY: system-build
system-build:
	@scripts/system-packages build

.PHONY: system-test
system-test:
	@scripts/system-packages test

# The development lock holds everything of the other at the same versions.
$(INSTALLED): pyproject.toml requirements.lock scripts/make-venv $(EXTENSIONS)
	@scripts/make-venv requirements.lock
	@mkdir -p $(STAMPS) && touch $@

$(DEV_INSTALLED): pyproject.toml requirements-dev.lock scripts/make-venv $(EXTENSIONS)
	@scripts/make-venv requirements-dev.lock
	@mkdir -p $(STAMPS) && touch $@ $(INSTALLED)
