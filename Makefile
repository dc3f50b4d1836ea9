# Needs Python 3.11 or newer and make; everything else goes into $(VENV).
PYTHON ?= python3
VENV ?= .venv
DIST ?= dist
PYTEST_ARGS ?=
LANES ?= cpu

BIN := $(VENV)/bin
INSTALL ?= $(BIN)/python -m pip --disable-pip-version-check --quiet install
announce = echo 'Installing $(1) into $(VENV): this takes a moment'

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-transports test-gpu bench-gpu bench-sched bench-lanes bench-peers bench-hot-path check protos client build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## serve the example, send it three kinds of traffic, print what came of it
	$(BIN)/python examples/digits/demo.py

serve: $(VENV)/.runtime ## serve the example until it is interrupted
	$(BIN)/lanewise serve examples/digits/models

test: $(VENV)/.test ## run every test that needs no GPU, a file on each core
	$(BIN)/python -m pytest --ignore=tests/gpu --numprocesses auto --dist loadfile $(PYTEST_ARGS)

test-transports: $(VENV)/.test ## run what clients see on each transport with 0, 1 and 4 front ends
	$(INSTALL) --constraint constraints.txt --editable '.[test,edge]'
	@set -e; for transport in aio edge; do for frontends in 0 1 4; do \
		echo "==> --transport $$transport --frontends $$frontends"; \
		LANEWISE_REQUIRE_EDGE=1 $(BIN)/python -m pytest tests/e2e \
			--transport $$transport --frontends $$frontends $(PYTEST_ARGS); \
	done; done

test-gpu: ## run the tests that need a GPU; with the Python that has TensorRT-RTX, see README
	LANEWISE_REQUIRE_GPU=1 LANEWISE_REQUIRE_PEERS=1 PYTHONPATH=server:client:$(PYTHONPATH) \
		$(PYTHON) -m pytest tests/gpu tests/contract tests/unit/backends/trt tests/unit/cli/test_build.py $(PYTEST_ARGS)

bench-gpu: ## measure lanes on this GPU beside the naive ways, shared memory, and the wire
	PYTHONPATH=server:client:$(PYTHONPATH) $(PYTHON) benchmarks/gpu/speed.py \
		--output benchmarks/gpu/results/$$(date +%F)-speed.json
	PYTHONPATH=server:client:$(PYTHONPATH) $(PYTHON) benchmarks/gpu/shared_memory.py \
		--output benchmarks/gpu/results/$$(date +%F)-shared-memory.json
	PYTHONPATH=server:client:$(PYTHONPATH) $(PYTHON) benchmarks/gpu/wire.py \
		--servers aio/0 aio/8 edge/4 --output benchmarks/gpu/results/$$(date +%F)-wire.json

bench-sched: $(VENV)/.runtime ## compare the scheduling policies in the simulator; BENCH_ARGS=--short for a minute
	$(BIN)/python -m benchmarks.scheduler $(or $(BENCH_ARGS), \
		--output benchmarks/scheduler/results/$$(date +%F)-scheduler)

bench-lanes: $(if $(filter cpu,$(LANES)),$(VENV)/.test) ## serve traces on real lanes, beside what the simulator predicts; LANES=gpu for TensorRT-RTX
	PYTHONPATH=server:client:$(PYTHONPATH) \
		$(if $(filter cpu,$(LANES)),$(BIN)/python,$(PYTHON)) -m benchmarks.scheduler.real_lanes \
		--backend $(if $(filter cpu,$(LANES)),onnxruntime,tensorrt-rtx) \
		--output benchmarks/scheduler/results/$$(date +%F)-lanes-$(LANES) $(BENCH_ARGS)

bench-peers: $(VENV)/.runtime ## compare Lanewise with PyTriton, KServe and MLServer; BENCH_ARGS=--short for a try
	$(INSTALL) uv
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m benchmarks.peers $(or $(BENCH_ARGS), \
		--output benchmarks/peers/results/$$(date +%F)-peers)

bench-hot-path: $(VENV)/.runtime ## say where the CPU time of a small request goes, stage by stage, without and with gRPC
	$(BIN)/python -m benchmarks.hot_path $(or $(BENCH_ARGS), \
		--floor --output benchmarks/hot_path/results/$$(date +%F)-hot-path)

check: $(VENV)/.dev ## format, lint, types, layering, and whether what is generated is up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python protos/generate.py --check
	$(BIN)/python client/generate.py --check
	$(BIN)/python docs/pictures/architecture.py --check
	@echo 'all checks passed'

protos: $(VENV)/.dev ## generate the Python stubs from protos/
	$(BIN)/python protos/generate.py

client: $(VENV)/.dev ## generate the blocking client from the asyncio one
	$(BIN)/python client/generate.py

build: $(VENV)/.dev ## make the wheel and the source distribution
	$(BIN)/python -m build --outdir $(DIST) .

clean: ## remove the environment and whatever was built
	rm -rf $(VENV) $(DIST) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp tells that an environment has the packages of an extra. The installs are editable,
# so that only a change of what is required makes them stale. Each contains the one before it.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@$(call announce,the server and ONNX Runtime)
	$(INSTALL) --constraint constraints.txt --editable '.[cpu]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@$(call announce,the server and what the tests need)
	$(INSTALL) --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@$(call announce,the server and the tools of its developers)
	$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.runtime

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
		f"$(PYTHON) is Python {v[0]}.{v[1]}; 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
