# Two commands from a fresh clone:   make demo   and   make test
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= diffc-out/demo

.PHONY: demo test test-all docs test-triton lint types clean

# The environment, remade when what it is made of changes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned, so that nothing else chooses a build of it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,rtx,openvino,data,ray,dev]'
	# tritonclient asks for an older protobuf than onnx does, and works with the newer one
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps \
	    'tritonclient>=2.40' 'grpcio>=1.60' 'python-rapidjson>=1.10'
	touch $@

demo: $(READY)
	$(BIN)/diffc compile demo --ratio 0.5 --out $(OUT) \
	    --target ort-cpu --target trt-rtx --gpu sm86,sm89,sm120

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest

# A real Triton Inference Server, in an environment of its own
test-triton: $(READY)
	bash scripts/triton_env.sh .venv-triton
	DIFFC_TRITON_ENV=$(CURDIR)/.venv-triton $(BIN)/python -m pytest tests/bundle

# The site, in site/; a broken link or reference fails it
docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) diffc-out site
