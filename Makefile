# `make quickstart` and `make test` are the two commands of the README; both create .venv when it is not there.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
OUT     ?= runs/quickstart
WORKERS ?= 2
LARGE   := open_clip, ray, sklearn.linear_model, torch._dynamo, torch.utils.tensorboard, zarr, matplotlib.pyplot, pandas

.PHONY: quickstart test lint format env clean

quickstart: $(VENV)/.ready
	$(BIN)/python -m benchmarks quickstart --out $(OUT)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: $(VENV)/.ready

# uv resolves and installs the whole set in seconds; pip only brings uv itself. Importing the large packages once leaves
# their bytecode behind: without it, every process of a machine that sets PYTHONDONTWRITEBYTECODE compiles PyTorch again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,ray,s3]'
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import $(LARGE)'
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
