# Every command that a person or CI needs. `make` alone prints them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# gpu: onnxruntime-gpu, which falls back to the CPU where there is no GPU; there is none for other systems. cpu: the small onnxruntime.
RUNTIME ?= $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),gpu,cpu)
# Processes of the tests: one a core, but 4 at most, since each imports torch and holds about 1 GB. 0: all in one, as plain pytest.
WORKERS ?= auto
AUDIT := .venv-audit
STAMP := $(VENV)/.installed-$(RUNTIME)

.DEFAULT_GOAL := help
.PHONY: help install format lint types test check demo docker bench-detection bench-serving bench-graph bench-gpu example docs figures openapi torture audit sbom clean

help:  ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## make the environment in .venv; does nothing when it is up to date

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 install")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[$(RUNTIME),train,dev,docs,sign,trace,track]'
	touch $@

format: install  ## format the code, and mend what ruff can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

lint: install  ## ruff, formatting, and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: install  ## mypy, strict
	$(BIN)/mypy

test: install  ## the whole test suite, in up to 4 processes (WORKERS=0: in one)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal --cov --cov-report=term:skip-covered

check: lint types test  ## linters, types and tests: what CI asks, but for the demo

demo: install  ## train on example payments, serve, score, and show the answers (DEMO_EXIT=1: then stop)
	$(BIN)/python -m training.demo

docs: install  ## the documentation as a site in .site, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open .site/index.html"

figures: install  ## whether README's figures are those that its commands give
	$(BIN)/python -m tests.figures

openapi: install  ## write docs/openapi.json anew, after a change of the interface
	$(BIN)/python -m tests.openapi > docs/openapi.json

example: install  ## make the tracked example bundle anew
	$(BIN)/python -m training.example --rows 2500 --seed 0 --output .demo/payments.csv
	$(BIN)/python -m training fit .demo/payments.csv --model example --models-dir models --label label --normal normal

docker:  ## build the image of the service (TARGET=cpu or gpu)
	docker build --target $(or $(TARGET),gpu) -t anomaly:$(or $(TARGET),gpu) .

bench-detection: install  ## detection quality on labelled tables (DATA=folder of .npz)
	$(BIN)/python benchmarks/detection.py --data $(DATA)

bench-serving: install  ## the service's speed over HTTP, beside an echo and plain FastAPI (needs wrk and two quiet cores)
	$(BIN)/python benchmarks/serving.py

bench-graph: MODEL ?= models/example
bench-graph: install  ## a model's scorer graph beside its own matrix products (MODEL=folder of the model; the example)
	$(BIN)/python benchmarks/graph.py $(MODEL)

bench-gpu: install  ## a GPU beside the CPU of the same machine: from how many records on it is the quicker
	$(BIN)/python benchmarks/gpu.py

torture: install  ## faults and attacks at full count: a table, and one JSON line (RUNS="hostile_bundles ..." for some)
	$(BIN)/python -W ignore -m tests.torture $(RUNS)

$(AUDIT)/.installed: pyproject.toml constraints.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit cyclonedx-bom
	touch $@

audit: install $(AUDIT)/.installed  ## known vulnerabilities of what is installed; fails, and says so, where they cannot be looked up
	@$(BIN)/python .ci/audit $(BIN)/python $(AUDIT)/bin/pip-audit

sbom: install $(AUDIT)/.installed  ## what is installed, as CycloneDX JSON: sbom.json
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON --output-file sbom.json $(BIN)/python

clean:  ## remove what was made here, the environment too
	rm -rf $(VENV) $(AUDIT) sbom.json .demo .site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build *.egg-info
