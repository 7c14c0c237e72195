# render_farm: `make demo` and `make test` work on a fresh Linux machine with Python 3.11-3.14, make and no GPU.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKER := $(VENV)/.ready-worker

# Every package but torch comes from this lock, by version and hash.
LOCK ?= requirements.lock
# torch is installed first: by default the version that the lock was made with. On a machine without an NVIDIA GPU,
# .ci/install looks for a CPU build to avoid CUDA's wheels. TORCH_INDEX_URL names another index to take torch from.
TORCH ?=
TORCH_INDEX_URL ?=

# Of `make chaos`: runs for each fault, and the first one's seed.
RUNS ?= 20
SEED ?= 0

.PHONY: help demo unit check test test-latest lock third-party lint docs bench gpu gpu-groups chaos fuzz long groups monitoring format settings-page clean venv

help:
	@echo "make demo   render the example films to demo-output/ (no GPU, no download of models)"
	@echo "make unit   the quick tests: no Ray, no server, no training; a minute on two cores"
	@echo "make check  make lint and make unit: before every commit"
	@echo "make test   run the tests (no GPU is needed)"
	@echo "make test-latest  the tests on the newest versions that pyproject.toml allows, in .venv-latest/"
	@echo "make lock   renew requirements.lock (LOCK_UPGRADE= keeps the versions it has)"
	@echo "make third-party  renew THIRD_PARTY.md, the licences of what the lock installs"
	@echo "make lint   ruff, mypy and deptry, and how long the sentences of the Markdown are"
	@echo "make docs   the guide and the API reference as a site, to build/site"
	@echo "make bench  the benchmarks of tests/benchmarks/"
	@echo "make gpu    what only a GPU can say, in 12 minutes (GPU=\"--shape 14b-540p\" for others); make gpu-groups for eight"
	@echo "make chaos  render while processes are killed and the store fails (RUNS=20, SEED=0)"
	@echo "make fuzz   10,000 damaged manifests, addresses, LoRAs, models and state files for each fuzz test"
	@echo "make long   the tests that take most of a minute each, which make test leaves out"
	@echo "make groups every film of the tests by every shape of render group, against one rank and diffusers"
	@echo "make monitoring  Prometheus (and Grafana where installed) against the Ray of this machine"
	@echo "make settings-page  write render_farm/guide/settings.md from the settings"
	@echo "make clean  remove what make created"

venv: $(READY)

# What rendering needs has a file of its own: `make demo` installs no render groups, tests and linters.
$(READY): WHAT := everything
$(WORKER): WHAT := worker
$(READY) $(WORKER): pyproject.toml .ci/install .ci/requirements.py $(LOCK)
	PYTHON="$(PYTHON)" VENV="$(VENV)" LOCK="$(LOCK)" TORCH="$(TORCH)" TORCH_INDEX_URL="$(TORCH_INDEX_URL)" WHAT=$(WHAT) \
		bash .ci/install

demo: $(WORKER)
	$(BIN)/render-farm demo --output demo-output

unit: $(READY)
	$(BIN)/python -m pytest -m "not (long or slow or server)" --numprocesses auto --maxprocesses 4 --dist loadfile tests/unit

check: lint unit

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The newest versions change from day to day, so the environment is made again each time.
test-latest:
	rm -rf .venv-latest
	$(MAKE) test VENV=.venv-latest LOCK=

# Universal: one file for every Python and platform. Wheels only: building one would run packages that no hash covers.
LOCK_UPGRADE ?= --upgrade
lock: $(READY)
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet $(LOCK_UPGRADE) --universal --python-version 3.11 \
		--generate-hashes --only-binary :all: --no-emit-package torch --all-extras --group dev --output-file requirements.lock pyproject.toml

third-party: $(READY)
	$(BIN)/python .ci/third_party.py > THIRD_PARTY.md

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .
	$(BIN)/python -m tests.helpers.prose

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

monitoring:
	bash cluster/monitoring.sh

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

settings-page: $(READY)
	$(BIN)/python -m render_farm.cli.settings_page > render_farm/guide/settings.md

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.farm_overhead

# The driver, Python's headers and a C compiler must be there; see tests/gpu/README.md.
GPU ?=
gpu: $(WORKER)
	$(BIN)/python -m tests.gpu $(GPU)

gpu-groups: $(READY)
	PYTHON=$(BIN)/python bash tests/gpu/groups.sh

chaos: $(READY)
	$(BIN)/python -m tests.chaos --runs $(RUNS) --seed $(SEED)

fuzz: $(READY)
	FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest --timeout=0 tests/unit/manifest/test_fuzz.py tests/unit/storage/test_fuzz.py \
		tests/unit/report/test_fuzz.py tests/unit/media/test_fuzz.py tests/unit/engine/lora/test_fuzz.py tests/unit/engine/weights/test_fuzz.py

long: $(READY)
	$(BIN)/python -m pytest -m long --numprocesses auto --maxprocesses 2 --dist load tests

groups: $(READY)
	EVERY_GROUP=1 $(BIN)/python -m pytest --timeout=0 tests/parallel/test_exactness.py

clean:
	rm -rf $(VENV) .venv-latest demo-output build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
