# render_farm: `make demo` and `make test` work on a fresh Linux machine with Python 3.11-3.13, make and no GPU.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The build of torch to install first. On a machine without an NVIDIA GPU a CPU build is looked for, so that no CUDA
# wheels are pulled; TORCH_INDEX_URL points at another index (for example a mirror of PyTorch's CPU wheels).
TORCH ?= torch==2.13.0
TORCH_INDEX_URL ?=

# Of `make chaos`: runs for each fault, and the first one's seed.
RUNS ?= 20
SEED ?= 0

.PHONY: help demo test lint docs bench chaos fuzz long groups monitoring format clean venv

help:
	@echo "make demo   render the example films to demo-output/ (no GPU, no download of models)"
	@echo "make test   run the tests (no GPU is needed)"
	@echo "make lint   ruff and mypy, and how long the sentences of the Markdown are"
	@echo "make docs   the guide and the API reference as a site, to build/site"
	@echo "make bench  the benchmarks of tests/benchmarks/"
	@echo "make chaos  render while processes are killed and the store fails (RUNS=20, SEED=0)"
	@echo "make fuzz   10,000 damaged manifests and state files for each fuzz test"
	@echo "make long   the tests that take most of a minute each, which make test leaves out"
	@echo "make groups every film of the tests by every shape of render group, against one rank and diffusers"
	@echo "make monitoring  Prometheus (and Grafana where installed) against the Ray of this machine"
	@echo "make clean  remove what make created"

venv: $(READY)

$(READY): pyproject.toml .ci/install
	PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH="$(TORCH)" TORCH_INDEX_URL="$(TORCH_INDEX_URL)" bash .ci/install
	@touch $@

demo: $(READY)
	$(BIN)/render-farm demo --output demo-output

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.helpers.prose

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

monitoring:
	bash cluster/monitoring.sh

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.farm_overhead

chaos: $(READY)
	$(BIN)/python -m tests.chaos --runs $(RUNS) --seed $(SEED)

fuzz: $(READY)
	FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest --timeout=0 tests/unit/test_manifest_fuzz.py tests/unit/test_state_fuzz.py \
		tests/unit/test_folder_fuzz.py

long: $(READY)
	$(BIN)/python -m pytest -m long --numprocesses auto --maxprocesses 2 --dist load tests/farm tests/unit/storage

groups: $(READY)
	EVERY_GROUP=1 $(BIN)/python -m pytest --timeout=0 tests/parallel/test_exactness.py

clean:
	rm -rf $(VENV) demo-output build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
