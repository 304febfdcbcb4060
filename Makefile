# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Threads that wait by spinning take the core from the one they wait for.
export OMP_WAIT_POLICY := PASSIVE

# One worker for each core, one thread for each worker; every shape annotation is enforced while the tests run.
TEST := -n logical --maxprocesses 8 --dist worksteal --jaxtyping-packages=clip_es,enforced.checked

.PHONY: demo test docs bench lint setup setup-tests clean

demo: setup
	$(BIN)/clip-es demo --out runs/demo

# Annotations that are enforced refuse wrong types before our own words can, so what tests those words runs without.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/pipelines/masks/test_calls.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -q $(TEST) --durations=10

# Strict, without a network; open runs/docs/site/index.html.
docs: setup-tests
	$(BIN)/python docs/build.py --out runs/docs

bench: setup-tests
	$(BIN)/python benchmarks/cam.py --out runs/bench
	$(BIN)/python benchmarks/crf_agreement.py --out runs/bench
	$(BIN)/python benchmarks/operations.py --out runs/bench
	$(BIN)/python benchmarks/collect.py --out runs/bench

lint: setup-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

setup: $(VENV)/.ready

setup-tests: $(VENV)/.ready-tests

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[native,opencv,wordnet,segmentor]'
	$(PIP) -e '.[crf]' || echo "pydensecrf did not build (it needs a C++ compiler and Python < 3.13): the native CRF takes its place."
	touch $@

# The libraries that other people read our files with, and those whose results ours are compared with.
# grad-cam declares torchvision, which has no build beside a CPU torch; it is wanted only as an oracle in the tests.
# Datumaro declares a second OpenCV, labelme more of a desktop than reading its files needs; ultralytics (AGPL, an oracle
# of its own format) declares torchvision, label-studio-sdk a second OpenCV and tools for writing code.
# moto is a server that answers as S3 does; with its own dependencies pip looks for a fitting botocore for minutes.
# Of axe-playwright-python only the file of axe-core is wanted.
$(VENV)/.ready-tests: $(VENV)/.ready
	$(PIP) -e '.[dev,docs,heif,coco,diffusion,sam,onnx,ray,storage,ui]' accelerate datasets supervision selenium
	$(PIP) --no-deps axe-playwright-python grad-cam ttach scikit-learn narwhals joblib threadpoolctl
	$(PIP) --no-deps datumaro json-stream json-stream-rs-tokenizer shapely imagesize lxml orjson cachetools ruamel.yaml
	$(PIP) --no-deps labelme imgviz loguru natsort cmap PyQt5 PyQt5-sip PyQt5-Qt5
	$(PIP) --no-deps cvat-sdk label-studio-sdk ijson ujson xmljson PyJWT appdirs jsf Faker rstr smart_open wrapt
	$(PIP) --no-deps ultralytics ultralytics-thop
	$(PIP) --no-deps moto boto3 botocore s3transfer responses xmltodict flask flask-cors jmespath py-partiql-parser itsdangerous blinker cryptography cffi pycparser
	$(PIP) --no-deps webdataset braceexpand
	sh tests/fetch_wordnet.sh
	sh tests/fetch_browser.sh
	touch $@

clean:
	rm -rf runs build dist *.egg-info
