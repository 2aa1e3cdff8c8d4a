# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PYTHONDONTWRITEBYTECODE := 1
PYTEST := python -m pytest -p no:cacheprovider

.PHONY: help setup drill test lint lint-quick lint-ansible sanity unit live integration faults molecule bench lab-up lab-status lab-down clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## Make .venv and install what is missing
	@python3 tests/bootstrap.py

drill: setup ## Bring up the lab, back it up, destroy it, restore it; print RTO, RPO and the report
	@python -m tests.lab.drill

# The static checks use one processor, so the unit tests run beside them; the live tests use all there are.
test: setup ## Everything that must pass
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit
	@$(MAKE) --no-print-directory live
	@$(MAKE) --no-print-directory molecule

lint: lint-quick sanity lint-ansible ## All static checks

lint-ansible: setup ## ansible-lint, and the changelog
	ansible-lint --offline --profile production --strict
	antsibull-changelog lint

lint-quick: setup ## The static checks that take seconds
	ruff check .
	ruff format --check .
	yamllint --strict .
	MYPYPATH=collections mypy -p ansible_collections.fileforge.ops.plugins.module_utils

sanity: setup ## ansible-test sanity, with no ignores
	@python tests/sanity/run.py

unit: setup ## Tests of the engines and of the modules' wiring
	$(PYTEST) -q -n 2 tests/unit

live: setup ## integration and faults at the same time: together they leave no processor idle
	$(PYTEST) -q -n 4 --dist loadfile --no-loadscope-reorder --durations=25 tests/integration tests/faults

integration: setup ## Modules and playbooks against real servers
	$(PYTEST) -q -n 4 --dist loadfile --no-loadscope-reorder tests/integration

faults: setup ## Kill, corrupt, cut and fill, then run again
	$(PYTEST) -q -n 2 tests/faults

molecule: ## Roles on real systemd hosts over ssh (Debian 12 and 13)
	@python3 tests/bootstrap.py molecule
	@python -m tests.molecule

bench: setup ## Measure against peers in the same run
	@python -m tests.bench

lab-up: setup ## Start a whole FileForge on loopback
	@python -m tests.lab up

lab-status: setup ## What runs and where
	@python -m tests.lab status

lab-down: setup ## Stop it; leaves nothing running
	@python -m tests.lab down

clean: ## Remove what make made (the lab must be down)
	@if [ -x .venv/bin/python ] && [ -e .lab ]; then .venv/bin/python -m tests.lab down; fi
	rm -rf .venv .cache .mypy_cache .ruff_cache .hypothesis
