# Every target does its own set-up, says what it does and can be run again. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
PORT ?= 8000
CRD := crds/fluxsamplers.fluxsampler.io.yaml
CHART_CRD := charts/fluxsampler/files/fluxsamplers.fluxsampler.io.yaml
REFERENCE := docs/user/reference.md
SOURCES := api/fluxsampler_api planner/fluxsampler_planner operator/fluxsampler_operator serve_app/fluxsampler_serve cli/fluxsampler_cli
DEMO := build/demo/red-circle.png

define say
@printf '\033[1m== %s\033[0m\n' "$(1)"
endef

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(BIN)/python:
	$(call say,Creating $(VENV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.run: $(BIN)/python pyproject.toml $(LOCK)
	$(call say,Installing FluxSampler into $(VENV) (the first time downloads torch and Ray))
	@$(BIN)/pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[serve,cli]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(call say,Installing the development tools)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[operator,serve,cli,dev]'
	@touch $@

.PHONY: install dev
install: $(VENV)/.run ## Install the service and the CLI into .venv
dev: $(VENV)/.dev ## Install everything a developer needs into .venv

.PHONY: demo
demo: $(VENV)/.run ## Draw "a red circle" with two ranks, on this machine
	$(call say,Starting examples/tiny-local.yaml on port $(PORT))
	@$(BIN)/fluxsampler up examples/tiny-local.yaml --detach --port $(PORT)
	$(call say,Drawing a red circle)
	@mkdir -p $(dir $(DEMO))
	@$(BIN)/fluxsampler generate "a red circle" --seed 1 -o $(DEMO) --url http://127.0.0.1:$(PORT)
	@printf '\nThe picture:  %s\nThe page:     http://127.0.0.1:%s/\nStop it with: %s/fluxsampler down tiny-local\n' "$(CURDIR)/$(DEMO)" "$(PORT)" "$(BIN)"

# A real Kubernetes on this machine, as root, without Docker: docs/dev/cluster.md.
.PHONY: cluster cluster-down images cluster-demo
cluster: $(VENV)/.dev ## Start a real Kubernetes with KubeRay on this machine (as root)
	@$(BIN)/python -m tools.cluster up
cluster-down: $(VENV)/.dev ## Take that Kubernetes away
	@$(BIN)/python -m tools.cluster down
images: $(VENV)/.dev ## Build both images and push them to the cluster's registry
	@$(BIN)/python -m tools.cluster image

CLUSTER_DEMO := build/cluster-demo/red-circle.png
cluster-demo: $(VENV)/.dev ## Draw "a red circle" on a real Kubernetes on this machine (as root)
	@shell="$$($(BIN)/python -m tools.cluster up)" && eval "$$shell"; \
	values="$$($(BIN)/python -m tools.cluster image --values)"; \
	helm upgrade --install fluxsampler charts/fluxsampler --namespace fluxsampler-system --create-namespace \
	  --set "$$values" --wait --timeout 5m >/dev/null; \
	kubectl apply -f examples/tiny-cluster.yaml; \
	echo "Waiting until the FluxSampler is Ready (about half a minute once its image is on the node)"; \
	kubectl wait fxs/tiny --for=condition=Ready --timeout=10m; \
	kubectl get fxs; \
	mkdir -p $(dir $(CLUSTER_DEMO)); \
	$(BIN)/fluxsampler generate "a red circle" --seed 1 -o $(CLUSTER_DEMO) --sampler tiny; \
	printf '\nThe picture:  %s\nFor a shell:  %s\nStop it with: make cluster-down\n' "$(CURDIR)/$(CLUSTER_DEMO)" "$$shell"

.PHONY: test test-unit test-serve test-control-plane test-e2e browser
test: test-unit test-serve test-control-plane test-e2e ## Run every test that this machine can run
test-unit: $(VENV)/.dev ## Run the fast tests (pure functions, fakes; about a minute)
	$(call say,Fast tests)
	@$(BIN)/pytest tests/unit -n auto --cov --cov-report=term:skip-covered --cov-fail-under=95
test-serve: $(VENV)/.dev browser ## Run the tests on real Ray, xfuser ranks, the built-in model and Chromium
	$(call say,Tests on real parts)
	@$(BIN)/pytest tests/serve tests/gpu
# Three processes on two cores, since the tests wait a lot: each module in one of them, in the order of conftest.py.
test-control-plane: $(VENV)/.dev cluster-programs ## Run the tests on a real API server
	$(call say,Tests on a real API server)
	@$(BIN)/pytest tests/control_plane -n 3 --dist loadfile --no-loadscope-reorder
test-e2e: $(VENV)/.dev cluster-programs ## Run the tests on a real cluster: Kubernetes, KubeRay, the images, the chart
	$(call say,Tests on a real cluster)
	@$(BIN)/pytest tests/e2e

# Outside of any test's time limit: the first time this builds Kubernetes.
.PHONY: cluster-programs
cluster-programs: $(VENV)/.dev
	$(call say,Programs of the test cluster (the first time they are built: a quarter of an hour))
	@$(BIN)/python -m tools.cluster build >/dev/null || echo "They cannot be had here: tests that need them will skip and say what is missing."

# The page is tested in a real browser. Where it cannot be installed, its tests skip and say so.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  printf '\033[1m== Installing Chromium for the page tests\033[0m\n'; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	else echo "No chromium and chromedriver: the page tests will skip. Install both packages to run them."; fi

.PHONY: lint
lint: $(VENV)/.dev ## Check style, types, layers and generated files
	$(call say,ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(call say,mypy)
	@$(BIN)/mypy $(SOURCES) tests benchmarks tools
	$(call say,import-linter)
	@$(BIN)/lint-imports
	$(call say,generated files)
	@for copy in $(CRD) $(CHART_CRD); do $(BIN)/python -m fluxsampler_api.crd | diff -u $$copy - || { echo "$$copy is not what the models say; run make crds"; exit 1; }; done
	@$(BIN)/python -m fluxsampler_api.reference | diff -u $(REFERENCE) - || { echo "$(REFERENCE) is not what the models say; run make crds"; exit 1; }

.PHONY: crds
crds: $(VENV)/.run ## Generate crds/, its copy in the chart and the reference page from the models
	@$(BIN)/python -m fluxsampler_api.crd $(CRD)
	@cp $(CRD) $(CHART_CRD)
	@$(BIN)/python -m fluxsampler_api.reference $(REFERENCE)

.PHONY: golden
golden: $(VENV)/.dev ## Write tests/golden/ from the builders; look at the difference before you commit it
	@$(BIN)/python -m tests.support.golden

.PHONY: lock
lock: $(VENV)/.dev ## Write requirements.lock from what is installed
	@{ echo "# Exactly what was tested; written by make lock. Any index will do: none is named."; \
	  $(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//'; } > $(LOCK)

.PHONY: bench
bench: $(VENV)/.dev ## Run every benchmark; results under build/bench/
	@$(BIN)/python -m benchmarks

.PHONY: clean
clean: ## Remove build outputs and caches (.venv stays)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* schemathesis-report
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
