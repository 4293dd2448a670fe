# Every command that a person or CI needs. `make` alone prints them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# gpu: onnxruntime-gpu, which falls back to the CPU where there is no GPU. cpu: the small onnxruntime.
RUNTIME ?= gpu
STAMP := $(VENV)/.installed-$(RUNTIME)

.DEFAULT_GOAL := help
.PHONY: help install format lint types test check demo docker bench-detection bench-serving example docs openapi clean

help:  ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## make the environment in .venv; does nothing when it is up to date

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 install")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[$(RUNTIME),train,dev,docs]'
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

test: install  ## the whole test suite
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

check: lint types test  ## everything that CI asks

demo: install  ## train on example payments, serve, score, and show the answers (DEMO_EXIT=1: then stop)
	$(BIN)/python -m training.demo

docs: install  ## the documentation as a site in .site, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open .site/index.html"

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

clean:  ## remove what was made here, the environment too
	rm -rf $(VENV) .demo .site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build *.egg-info
