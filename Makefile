# `make quickstart` and `make test` are the two commands of the README; both create .venv when it is not there.
PYTHON  ?= python3
# An environment per interpreter that is asked for: `make test PYTHON=python3.13` leaves .venv alone.
VENV    ?= $(if $(filter file,$(origin PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN     := $(VENV)/bin
OUT     ?= runs/quickstart
# One more than the two cores it is made for: tests that kill processes or wait for a cluster leave cores idle.
WORKERS ?= 3
# Not even where the machine says so: without bytecode, every process compiles PyTorch and us again, seconds each time.
unexport PYTHONDONTWRITEBYTECODE
LARGE   := open_clip, ray, sklearn.linear_model, torch._dynamo, torch.utils.tensorboard, zarr, matplotlib.pyplot, pandas

# What a new interpreter or another release breaks first: stores, decoders, towers, the text engine, a training, the commands.
SAMPLE  := tests/vidfeat/store/test_store_layout.py tests/vidfeat/store/test_store_spec.py \
           tests/vidfeat/store/test_store_other_readers.py tests/vidfeat/video/test_decode_frames.py tests/vidfeat/video/test_decode_failures.py \
           tests/vidfeat/extraction/test_extract_store.py tests/vidfeat/backbone/test_vision_families.py tests/vidfeat/backbone/test_backbone_pack.py \
           tests/prompttune/base/test_recompute.py tests/prompttune/text/test_text_engine_behaviour.py tests/prompttune/training/test_fit_folder.py \
           tests/prompttune/training/test_train_loop.py tests/prompttune/cli/test_before_training.py \
           tests/prompttune/cli/test_prompttune_cli.py
# These skip without transformers. It stays out of .venv, where every import of open_clip would import it, too.
BY_TRANSFORMERS := tests/vidfeat/backbone/test_foreign_text.py tests/vidfeat/clip/test_hub_tokenizers.py

.PHONY: quickstart test test-newest test-oldest test-sample lint format env clean

quickstart: $(VENV)/.ready
	$(BIN)/python -m benchmarks quickstart --out $(OUT)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The newest Python found with the newest releases, and this one with the lower bounds of pyproject.toml: environments that
# users have and .venv does not show. A sample of the tests, without the long ones.
test-newest:
	python=$$(.ci/newest-python) || { echo "no newer Python here: skipped"; exit 0; }; \
	$(MAKE) test-sample VENV=.venv-newest PYTHON="$$python" RESOLUTION=highest EXTRAS=,hf-text MORE="$(BY_TRANSFORMERS)"

test-oldest:
	$(MAKE) test-sample VENV=.venv-oldest RESOLUTION=lowest-direct

test-sample:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --upgrade --resolution $(RESOLUTION) --editable '.[extract,report,s3,dev$(EXTRAS)]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not long" $(SAMPLE) $(MORE)

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: $(VENV)/.ready

# uv resolves and installs the whole set in seconds; pip only brings uv itself. Importing the large packages once leaves
# their bytecode behind before several processes would compile them at the same time.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,ray,s3]'
	$(BIN)/python -c 'import $(LARGE)'
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
