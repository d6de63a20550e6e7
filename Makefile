# Everything a newcomer needs, on a machine that has only Python (>= 3.11) and make:
#   make demo    simulated scenes of several sensors -> shards -> pretraining -> probes -> runs/demo/report.html
#   make test    lint, types and every test that is not slow
# VENV names the environment's folder; several clones may share one (make test VENV=/some/folder).
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
EXTRAS := geo viz tensorboard explain onnx compress cluster remote site dev

BIN := $(VENV)/bin
STAMP := $(VENV)/.specfm-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
# The environment holds only dependencies; the code always comes from this checkout.
RUN := PYTHONPATH="$(CURDIR)" $(BIN)/python
PACKAGES := specfm pretrain downstream

.DEFAULT_GOAL := help
.PHONY: help setup demo site test test-fast test-all browser lint format bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1	/' | expand -t 12

setup: $(STAMP)  ## make the environment and install what pyproject.toml asks for, at the versions of constraints.txt

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: specfm needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the dependencies into $(VENV) (a few minutes, once) ..."
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print("\n".join(p["dependencies"] + [r for e in "$(EXTRAS)".split() for r in p["optional-dependencies"][e]]))' \
	  > $(VENV)/requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -r $(VENV)/requirements.txt
	@rm -f $(VENV)/.specfm-*
	@printf '#!/bin/sh\n# The specfm command of the checkout it is called in, else of the one that made this environment.\n' > $(BIN)/specfm
	@printf 'if [ -f specfm/cli/__init__.py ]; then here=$$PWD; else here="%s"; fi\n' "$(CURDIR)" >> $(BIN)/specfm
	@printf 'PYTHONPATH="$$here$${PYTHONPATH:+:$$PYTHONPATH}" exec "%s/python" -P -m specfm "$$@"\n' "$(abspath $(BIN))" >> $(BIN)/specfm
	@chmod +x $(BIN)/specfm
	@echo "$(CURDIR)" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/specfm-checkout.pth"
	@touch $@

demo: $(STAMP)  ## run the whole road on simulated scenes; ends by printing its table and the path of report.html
	$(RUN) -m specfm demo --out runs/demo --overwrite

site: $(STAMP)  ## build guides, notebooks and the reference into runs/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "runs/site/index.html"

test: lint $(STAMP)  ## lint, types, and every test that is not slow
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS) -m "not slow"

test-fast: $(STAMP)  ## the tests alone, stopping at the first failure
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -x -n $(WORKERS) -m "not slow"

test-all: lint browser $(STAMP)  ## everything, slow tests included; installs a browser for the report where it may
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS)

browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do \
	  command -v $$name > /dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "Installing chromium, which opens report.html in the tests ..."; \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } > /dev/null 2>&1 \
	    || echo "chromium could not be installed; the tests that need a browser are skipped"; \
	else echo "no browser, and no right to install one; the tests that need it are skipped"; fi

lint: $(STAMP)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(STAMP)  ## measure tokenizers, loaders, losses and probes side by side; JSON under runs/bench
	@mkdir -p runs/bench
	for name in $(basename $(notdir $(wildcard tests/benchmarks/bench_*.py))); do \
	  $(RUN) -m tests.benchmarks.$$name --json runs/bench/$$name.json || exit 1; done

clean:  ## remove caches and build outputs (runs/ and the environment stay)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
