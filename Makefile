# Python 3.11 to 3.13 makes .venv; everything after that runs inside it.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
TYPED := pipelines transforms $(patsubst %/,%,$(sort $(dir $(wildcard benchmarks/*.py deploy/*.py examples/*.py))))
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate
# Every extra but gpu, which is for the worker image alone: gigabytes that nothing here can use.
EXTRAS := heic s3 azure report demo dev
SITE := site

# Bytecode is written as modules are first imported, which takes 8 s once; for everything in .venv it takes 22 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup heavy java chromium demo test test-all lint types docs format lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

setup: .venv/.stamp  ## make .venv with the locked requirements and this package

# What only test-all needs: scikit-learn, Spark (half a gigabyte), and the Java that it runs on.
heavy: .venv/.heavy-stamp java

java:
	@command -v java >/dev/null || { \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq --no-install-recommends default-jre-headless; \
	} || { echo "Spark needs Java 17 or newer: install one, then make test-all again" >&2; exit 1; }

# The browser of the report's tests, and a font that it can write with.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq --no-install-recommends chromium fonts-dejavu-core; \
	} || { echo "the report is tested in Chromium: install it, then make test-all again" >&2; exit 1; }

demo: setup  ## run the four modules over a few photographs
	$(BIN)/python -m pipelines.commands.demo

test: setup  ## the tests that CI runs
	$(BIN)/pytest -m "not full"

test-all: setup heavy chromium  ## every test: full-size modules, engines, kill loops, Spark, the report in Chromium
	$(BIN)/pytest

lint: setup  ## what CI checks before the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) --no-print-directory types

types: setup
	$(BIN)/mypy $(TYPED)

# pdoc's own warnings are errors, those of what is imported are not.
docs: setup  ## the API reference from the docstrings, in site/
	TF_CPP_MIN_LOG_LEVEL=3 PDOC_ALLOW_EXEC=1 $(BIN)/python -W "error:Couldn't import" -W "error:Error parsing" \
		-W "error:Cannot determine" -W "error:Found" -m pdoc --docformat google --no-show-source \
		--footer-text Pixelbeam --output-directory $(SITE) pipelines transforms

format: setup  ## put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(BIN)/uv  ## renew requirements/ from pyproject.toml (UPGRADE=--upgrade: newest versions)
	echo uv | $(COMPILE) $(UPGRADE) -o requirements/uv.txt -
	$(COMPILE) $(UPGRADE) $(EXTRAS:%=--extra %) -o requirements/dev.txt pyproject.toml
	$(COMPILE) $(UPGRADE) --group heavy -c requirements/dev.txt -o requirements/heavy.txt
	$(COMPILE) $(UPGRADE) -c requirements/dev.txt -o requirements/worker.txt pyproject.toml
	$(COMPILE) $(UPGRADE) --extra gpu -c requirements/dev.txt -o requirements/worker-gpu.txt pyproject.toml

clean:  ## remove what the targets made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo-output site *.egg-info
	find $(TYPED) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and \
		"the locks are for Python 3.11 to 3.13: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@touch $@

.venv/.stamp: $(BIN)/uv requirements/dev.txt pyproject.toml setup.py
	@echo "installing the locked requirements: about 1 GB the first time"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.heavy-stamp: .venv/.stamp requirements/heavy.txt
	@echo "installing Spark and scikit-learn: half a gigabyte"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-build-isolation -r requirements/heavy.txt
	@touch $@
