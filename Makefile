# make setup   .venv with all that development needs
# make test    sets up and runs the tests
# make demo    a small model before and after, with honest numbers, in a quarter of an hour on two cores
# make check   lint, types, import rules, compiled pipeline, example safety configs, the chart's generated files
# make chart   writes the chart's generated files
# make images  builds, tries and pushes all images to REGISTRY; their digests go to dist/images.yaml, for helm
# make test-cluster       images, chart and the whole method on the cluster that KUBECONFIG names, images by REGISTRY
# make test-cluster-api   the chart alone, on an API server without nodes
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
# One thread a process: with another process on the cores torch's spinning threads slow both down.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-fast test-kills images test-cluster test-cluster-api check chart lock clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.installed

$(VENV)/.installed: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "make: cosalign needs Python 3.11; found $$($(PYTHON) --version 2>&1). Name one: make setup PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: this Python has no venv module; on Debian and Ubuntu: apt-get install python3.11-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# The lock is complete, so nothing is resolved: torchvision, torchaudio and torchcodec, which break a CPU torch, stay out.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement $(LOCK)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

DEMO_MODEL := models/smollm2
# Nothing is fetched once set-up is done.
DEMO_ENV := HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1

demo:
	@$(PYTHON) components/cosalign/runtime/machine.py $(if $(wildcard $(VENV)/.installed),--installed)
	@$(MAKE) --no-print-directory setup $(DEMO_MODEL)/config.json
	@$(DEMO_ENV) $(BIN)/cosalign run --profile demo
	@echo
	@echo "Talk with it:  $(BIN)/cosalign chat --config $$(ls profiles/demo/configs/*.yaml | head -n 1)"
	@echo "Serve it:      $(BIN)/cosalign serve"

$(DEMO_MODEL)/config.json: | setup
	$(BIN)/cosalign model smollm2 $(DEMO_MODEL)

# Tests without engines and training run side by side, one worker a core. The others have a model
# each in memory, and come after them.
test: test-fast
	$(BIN)/python -m pytest -m "vllm or training"

test-fast: setup
	$(BIN)/python -m pytest -m "not vllm and not training" --numprocesses auto --dist loadfile

# Twenty kills of each training stage, where `make test` makes four.
test-kills: setup
	COSALIGN_KILLS=20 $(BIN)/python -m pytest tests/training/test_twenty_kills.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks charts
	$(BIN)/lint-imports --no-cache
	$(BIN)/cosalign compile --check
	$(BIN)/cosalign config validate manifests/safety-configs
	$(BIN)/python charts/generate.py --check

# What the chart ships of other files: pipelines, the schema of its values, its README.
chart: setup
	$(BIN)/python charts/generate.py

# ACCELERATOR=cuda builds for GPUs; requirements/build-images says what else there is to set.
images:
	requirements/build-images $(IMAGES)

# On a real cluster whose nodes reach REGISTRY. CRDs and images stay there, all else goes. CPU images, from one layer of
# packages; a user's own values of the build would be others.
test-cluster: setup
	@test -n "$$KUBECONFIG" || { echo "make: test-cluster needs KUBECONFIG, a kubeconfig of a cluster to test on" >&2; exit 2; }
	@test -n "$(REGISTRY)" || { echo "make: test-cluster needs REGISTRY, which the cluster's nodes pull from" >&2; exit 2; }
	REGISTRY=$(REGISTRY) PACKAGES=shared ACCELERATOR=cpu requirements/build-images
	COSALIGN_TEST_CLUSTER=all $(BIN)/python -m pytest -m cluster tests/cluster

# On an API server alone: what needs a node is left out.
test-cluster-api: setup
	@test -n "$$KUBECONFIG" || { echo "make: test-cluster-api needs KUBECONFIG, a kubeconfig of a cluster to test on" >&2; exit 2; }
	COSALIGN_TEST_CLUSTER=api $(BIN)/python -m pytest -m cluster tests/cluster

bench-%: setup
	$(BIN)/python -m benchmarks.$(subst -,_,$*)

lock:
	$(BIN)/pip freeze --exclude cosalign --exclude pip --exclude setuptools > $(LOCK)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
