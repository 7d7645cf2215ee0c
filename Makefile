# Two commands from a fresh clone:   make demo   and   make test
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= diffc-out/demo

# A file of tests to a worker, a worker to a core: most of the time goes to Python and to small
# networks, which use one core whatever they are given (tests/support/cores.py). The long files come
# first (tests/support/order.py), and not the ones with most tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 \
    --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-all docs test-triton lint types clean

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
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

test-all: $(READY)
	$(PYTEST)

# A real Triton Inference Server, in an environment of its own
test-triton: $(READY)
	bash scripts/triton_env.sh .venv-triton
	DIFFC_TRITON_ENV=$(CURDIR)/.venv-triton $(PYTEST) tests/bundle

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
