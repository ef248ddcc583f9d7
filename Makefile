# Each target makes .venv and installs what is missing; a machine needs Python 3.11 or later with pip, make and git.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-bench
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-fast kills lint format bench bench-cifar bench-export bench-gpu bench-zoo bench-control bench-steps constraints wheel clean

demo: $(INSTALLED)  ## the main job on real images, in a few minutes: train, distill, quantize, measure, report
	$(BIN)/flaxcomp run sweeps/quickstart.yaml --out runs/quickstart

test: $(INSTALLED)  ## every test but the long benchmarks and those for a GPU
	$(PYTEST) -m "not gpu" -n 2 --dist loadfile --durations=30

test-fast: $(INSTALLED)  ## the unit tests
	$(PYTEST) -m "not gpu and not integration and not e2e and not device and not slow"

kills: $(INSTALLED)  ## twenty SIGKILLs of controller and workers at random moments; `make test` does six
	FLAXCOMP_KILLS=20 $(PYTEST) tests/e2e/test_kills.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# OPTIONS of the benchmarks: their --help, and benchmarks/README.md. `make bench OPTIONS="--epochs 5"`
bench: $(INSTALLED) $(VENV)/.installed-bench $(PEERS)/.installed  ## trials an hour beside Ray Tune, Optuna and Keras
	$(BIN)/python -m benchmarks.throughput $(OPTIONS)

bench-cifar: $(INSTALLED) $(VENV)/.installed-bench $(PEERS)/.installed  ## the same of MobileNet and ResNet-20 on CIFAR-10
	$(BIN)/python -m benchmarks.cifar $(OPTIONS)

bench-export: $(INSTALLED)  ## seconds to export and check 80 files
	$(BIN)/python -m benchmarks.export_speed $(OPTIONS)

bench-gpu: $(INSTALLED) $(if $(shell command -v nvidia-smi),$(VENV)/.installed-gpu $(PEERS)/.installed)  ## packs on a GPU
	$(BIN)/python -m benchmarks.gpu $(OPTIONS)

bench-zoo: $(INSTALLED)  ## every architecture on the emulated ARM core, instructions counted; needs qemu-user and gcc
	$(BIN)/python -m benchmarks.zoo_on_board

bench-steps: $(INSTALLED)  ## images a second of the training step of several networks
	$(BIN)/python -m benchmarks.steps $(OPTIONS)

bench-control: $(INSTALLED)  ## what all but training costs: trials that return at once, plans, resuming, reading large runs
	$(BIN)/python -m benchmarks.control_plane --save

constraints: $(INSTALLED)  ## pin anew what pyproject.toml admits
	$(BIN)/uv pip compile --upgrade --quiet --no-emit-index-url --no-header --no-annotate --all-extras \
		--python-version 3.11 pyproject.toml -o constraints.txt

wheel: $(INSTALLED)
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.installed-bench: $(INSTALLED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[bench]'
	touch $@

$(VENV)/.installed-gpu: $(INSTALLED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[gpu]'
	touch $@

# By pip, which knows of PIP_FIND_LINKS and pip.conf: see the file.
$(PEERS)/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) dist .pytest_cache .mypy_cache .ruff_cache
