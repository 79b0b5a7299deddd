# Every target sets up what it needs: a virtual environment, the packages, the compiled modules. `make help` lists them.
# Needed beforehand: Python >= 3.10 with venv and its C headers, a C++20 compiler, make, and a package index.
#
# Variables: PYTHON=python3.12 makes the environment with that interpreter, VENV=path puts it elsewhere,
# MAX_JOBS=n limits compiler processes, PYTEST_ARGS and BENCH_ARGS are passed on, BENCH_FILES chooses benchmarks, OUT is
# gpu-check's folder.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
OUT ?=
BENCH_FILES ?= $(wildcard benchmarks/bench_*.py)

ifneq ($(words $(VENV)),1)
$(error VENV must be one path without spaces (the repository's own path may have some), got "$(VENV)")
endif

START := $(shell date +%s)

# Always `python -m tool`, never `$(VENV)/bin/tool`: a script's first line cannot hold a long path, or one with spaces.
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
ifneq ($(MAX_JOBS),)
export MAX_JOBS
endif

# The compiled modules are built by installing, so their sources decide when to install again.
COMPILED := $(wildcard setup.py CMakeLists.txt) $(shell find csrc -type f 2>/dev/null)
CPP_FILES = $(shell find csrc tests benchmarks -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null)

define CHECK_PYTHON
import os, sys, sysconfig
if sys.version_info < (3, 10):
    sys.exit(f"expected Python >= 3.10, got {sys.version.split()[0]} ({sys.executable}); run: make PYTHON=python3.12 ...")
try:
    import ensurepip, venv
except ImportError as error:
    sys.exit(f"expected a Python with venv and ensurepip, got {sys.executable} ({error}); on Debian or Ubuntu run: "
             "apt install python3-venv, or choose another Python: make PYTHON=/path/to/python3 ...")
header = os.path.join(sysconfig.get_path("include"), "Python.h")
if not os.path.isfile(header):
    sys.exit(f"expected Python's C headers, got no {header} ({sys.executable}); on Debian or Ubuntu run: "
             "apt install python3-dev, or choose another Python: make PYTHON=/path/to/python3 ...")
endef
export CHECK_PYTHON

# One list of build requirements, pyproject.toml's, and torch, which the torch ops are built against. pip carries a TOML reader
# for Python 3.10, which has none.
define BUILD_REQUIRES
import importlib, re, sys
toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli")
project = toml.loads(open("pyproject.toml", encoding="utf-8").read())
torch = [r for r in project["project"]["optional-dependencies"]["torch"] if re.match(r"torch\b", r)]
print(*project["build-system"]["requires"], *torch, sep="\n")
endef
export BUILD_REQUIRES

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---- setup -----------------------------------------------------------------------------------------------------------

# An existing environment is kept and completed, so VENV may name one's own.
$(VENV)/.created:
	@$(PYTHON) -c "$$CHECK_PYTHON"
	command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || {
	    echo "expected a C++20 compiler, got none; on Debian or Ubuntu run: apt install g++, or set CXX" >&2; exit 1; }
	echo "== $(VENV): creating it with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	touch $@

$(VENV)/.build-requires: $(VENV)/.created pyproject.toml
	@echo "== $(VENV): installing build requirements and torch (a minute or two the first time)"
	$(PY) -c "$$BUILD_REQUIRES" >$@.tmp
	$(PIP) install --quiet --requirement $@.tmp
	mv $@.tmp $@

# Without build isolation, because the torch extension must be built against the torch that will load it.
$(VENV)/.installed: $(VENV)/.build-requires $(COMPILED)
	@echo "== $(VENV): installing dna_fast with torch and tools, compiling (minutes the first time)"
	$(PIP) install --quiet --no-build-isolation --editable '.[torch,report,test]'
	touch $@

.PHONY: setup
setup: $(VENV)/.installed  ## environment, packages and compiled modules
	@echo $$(($$(date +%s) - $(START))) >$(VENV)/.setup-seconds

# ---- jobs ------------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup  ## the whole job on the embedded data set, into runs/demo
	@$(PY) -m dna_fast demo --out runs/demo
	echo "== setup took $$(cat $(VENV)/.setup-seconds) s, the demo $$SECONDS s"

.PHONY: study
study: demo  ## after the demo: whole networks of trained blocks, and the found one against random, uniform and the largest, half an hour and more
	@$(PY) -m dna_fast assembled runs/demo
	$(PY) -m dna_fast compare runs/demo --set retrain.epochs=8
	$(PY) -m dna_fast profile runs/demo --device cpu --rounds 5 --validate 20
	$(PY) -m benchmarks.quality runs/demo

.PHONY: test
test: lint  ## lint and the test suite
	@$(PY) -m pytest $(PYTEST_ARGS)
	echo "== setup took $$(cat $(VENV)/.setup-seconds) s, tests $$SECONDS s, all with lint $$(($$(date +%s) - $(START))) s"

.PHONY: test-all
test-all: override PYTEST_ARGS += --slow
test-all: test  ## lint and the test suite with its slow tiers

.PHONY: bench
bench: setup  ## the benchmark suite; BENCH_ARGS=--full for all cases (hours), --resume to go on after an interruption
	@[ -n "$(BENCH_FILES)" ] || { echo "expected benchmarks/bench_*.py, got none: nothing to measure" >&2; exit 1; }
	mkdir -p .benchmarks
	$(PY) -m pytest $(BENCH_FILES) --benchmark-only --benchmark-columns=min,median,iqr,rounds \
	    --benchmark-json=.benchmarks/last.json $(BENCH_ARGS)
	echo "== .benchmarks/last.json holds the figures; make bench-save keeps them"

.PHONY: bench-save
bench-save: setup  ## keep the figures of the last make bench in benchmarks/results, and write docs/benchmarks.md
	@$(PY) -m benchmarks.results .benchmarks/last.json
	$(PY) -m benchmarks.page

.PHONY: bench-page
bench-page: setup  ## write docs/benchmarks.md from benchmarks/results
	@$(PY) -m benchmarks.page

.PHONY: gpu-check
gpu-check:  ## on a machine with a GPU: build, test and measure the CUDA kernels into OUT=folder, with PYTHON as it is
	@[ -n "$(OUT)" ] || { echo "expected a folder for the results, got none; run: make gpu-check OUT=folder" >&2; exit 1; }
	$(PYTHON) -m benchmarks.gpu_check "$(OUT)"

.PHONY: lint
lint: setup  ## ruff, clang-format and mypy, changing nothing
	@$(PY) -m ruff check --quiet .
	$(PY) -m ruff format --check --quiet .
	if [ -n "$(CPP_FILES)" ]; then $(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES); fi
	$(PY) -m mypy
	echo "== lint: clean"

.PHONY: format
format: setup  ## let the machine format Python and C++
	@$(PY) -m ruff check --quiet --fix --exit-zero .
	$(PY) -m ruff format --quiet .
	if [ -n "$(CPP_FILES)" ]; then $(VENV)/bin/clang-format -i $(CPP_FILES); fi

.PHONY: clean
clean:  ## remove what was built and cached, and .venv; runs/ and an environment elsewhere stay
	@$(if $(filter .venv,$(VENV)),rm -rf .venv,rm -f $(VENV)/.created $(VENV)/.build-requires $(VENV)/.installed)
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find dna_fast csrc tests benchmarks configs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
	rm -f dna_fast/*.so dna_fast/_C.ptxas.json
