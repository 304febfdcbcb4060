# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
SOURCES := clip_es prompts pipelines segmentor tests benchmarks

.PHONY: demo test lint checked setup clean

demo: setup
	$(BIN)/clip-es demo --out runs/demo

test: lint
	$(BIN)/pytest -q --durations=10
	$(BIN)/pytest -q -m checked --jaxtyping-packages=clip_es,beartype.beartype

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

setup: $(VENV)/.ready

# grad-cam declares torchvision, which has no build beside a CPU torch; it is wanted only as an oracle in the tests.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[native,opencv,wordnet,dev]'
	$(PIP) -e '.[crf]' || echo "pydensecrf did not build (it needs a C++ compiler and Python < 3.13): the native CRF takes its place."
	$(PIP) --no-deps grad-cam ttach scikit-learn narwhals joblib threadpoolctl
	touch $@

clean:
	rm -rf runs build dist *.egg-info
