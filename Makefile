# The two main targets are `make local` (the whole product on the embedded AWS) and `make test`.
# Each target creates the environments that it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ENVIRONMENT ?= default
BIN := .venv/bin
PIP := pip --disable-pip-version-check install --quiet --no-compile
# Bytecode is compiled once, on all cores: jobs see their environment read-only and would compile torch at every start.
# Some packages ship templates that are not valid Python; compileall skips them, and its exit code is ignored.
COMPILE := bin/python -m compileall -qq -j 0
CDK := node_modules/.bin/cdk
# jsii warns about Node versions past their end of life unless they are listed here; Node 20 to 24 are tested.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 20
# The AWS SDK inside the CDK warns about old Node versions at every start.
export NODE_NO_WARNINGS := 1
export PIP_NO_INPUT := 1
# Without a writable home folder (a service user, a container), caches go into the checkout.
ifneq ($(shell [ -w "$$HOME" ] && echo yes),yes)
export npm_config_cache := $(CURDIR)/.cache/npm
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export JSII_RUNTIME_PACKAGE_CACHE_ROOT := $(CURDIR)/.cache/jsii
endif

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z][a-zA-Z-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'

# ---- environments ------------------------------------------------------------------------------
# .venv holds what the CDK app and the command line need; .dev adds torch, the jobs and the tools.
# .venv-aws is the embedded AWS's own, because it pins botocore. node_modules has the CDK command line.
# .unfinished marks an environment whose installation was interrupted: it is created again, because pip may take a
# half-copied package for an installed one. After an error of pip itself (no network, no disk) the next call continues.

VENV = if [ -e $(1)/.unfinished ] || [ ! -x $(1)/bin/pip ]; then $(PYTHON) -m venv --clear $(1); fi; touch $(1)/.unfinished
INSTALL = $(1)/bin/$(PIP) $(2) || { rm $(1)/.unfinished; exit 1; }
NEEDS_GB := 9

.PHONY: python-present node-present disk-present env
python-present:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=python3.12, for example")'

node-present:
	@command -v node >/dev/null || { echo "Node 20 or newer is needed, and there is no node on PATH" >&2; exit 1; }
	@node -e 'if (+process.versions.node.split(".")[0] < 20) { console.error("Node 20 or newer is needed, node is " + process.version); process.exit(1) }'

disk-present:
	@free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1e6) }'); [ -e .venv/.dev ] || [ "$$free" -ge $(NEEDS_GB) ] \
	  || { echo "$(NEEDS_GB) GB are needed here for the environments, and $$free GB are free" >&2; exit 1; }

.venv/.deploy: requirements.txt pyproject.toml | python-present
	@$(call VENV,.venv)
	@echo "Installing the CDK app's packages ..."
	@$(call INSTALL,.venv,-r requirements.txt)
	@$(call INSTALL,.venv,--quiet --no-deps --editable .)
	@rm .venv/.unfinished && touch $@

.venv/.dev: requirements-dev.txt pyproject.toml | python-present disk-present
	@$(call VENV,.venv)
	@echo "Installing the jobs' packages (torch and its CUDA libraries are about 7 GB; the first time takes minutes) ..."
	@$(call INSTALL,.venv,-r requirements-dev.txt)
	@$(call INSTALL,.venv,--quiet --no-deps --editable .)
	@.venv/$(COMPILE) .venv || true
	@rm .venv/.unfinished && touch $@ .venv/.deploy

.venv-aws/.done: local_aws/requirements.txt | python-present
	@$(call VENV,.venv-aws)
	@$(call INSTALL,.venv-aws,-r local_aws/requirements.txt)
	@.venv-aws/$(COMPILE) .venv-aws || true
	@rm .venv-aws/.unfinished && touch $@

node_modules/.done: package.json package-lock.json | node-present
	npm ci --loglevel=error --no-audit --no-fund >/dev/null
	@touch $@

env: | python-present node-present disk-present ## Create every environment
	@$(MAKE) -s -j3 .venv/.dev .venv-aws/.done node_modules/.done

# ---- the embedded AWS --------------------------------------------------------------------------

.PHONY: local local-status local-down local-clean
local: env ## Run the whole product on this machine: deploy, tokenise, train, report
	@exec $(BIN)/pretrain local run

local-status: .venv/.deploy ## Show what runs on the embedded AWS
	@$(BIN)/pretrain local status

local-down: .venv/.deploy ## Stop the embedded AWS and everything it started
	@$(BIN)/pretrain local down

local-clean: .venv/.deploy ## Stop it and delete its state
	@$(BIN)/pretrain local clean

# ---- deploying to AWS --------------------------------------------------------------------------

.PHONY: synth bootstrap deploy images destroy
ACCOUNT_HINT = { echo "Credentials are those of the shell: AWS_PROFILE=you make $@. $(BIN)/pretrain doctor shows account, region and what is missing." >&2; exit 1; }
synth: .venv/.deploy node_modules/.done ## Write cdk.out and install the pretrain command; needs no AWS account
	$(CDK) synth --quiet -c environment=$(ENVIRONMENT)

bootstrap: .venv/.deploy node_modules/.done ## Prepare the account and region for the CDK, once
	@$(CDK) bootstrap -c environment=$(ENVIRONMENT) || $(ACCOUNT_HINT)

deploy: .venv/.deploy node_modules/.done ## Deploy to the account of the AWS credentials
	@$(CDK) deploy --all -c environment=$(ENVIRONMENT) || $(ACCOUNT_HINT)

images: .venv/.deploy ## Build and push the deployment's images from this machine, where CodeBuild may not (needs docker and aws)
	@$(BIN)/pretrain images --environment $(ENVIRONMENT)

destroy: .venv/.deploy node_modules/.done ## Delete the stacks; with retain_data, bucket, key and images stay, else it asks and empties the buckets
	@$(BIN)/pretrain empty --environment $(ENVIRONMENT)
	@$(CDK) destroy --all -c environment=$(ENVIRONMENT) || $(ACCOUNT_HINT)

# ---- checks and tests --------------------------------------------------------------------------

.PHONY: check suite test format
check: .venv/.dev ## Check format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

suite: .venv/.dev
	$(BIN)/python -m pytest -n 2

test: env ## Run every check and test, as CI does
	@$(MAKE) -j2 check suite

format: .venv/.dev ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# ---- targets of one area each ------------------------------------------------------------------

# -- container: locks and images
.PHONY: lock
lock: .venv/.dev ## Write every lock file from its .in file (UPGRADE=1 takes the newest versions)
	$(BIN)/python -m container.lock $(if $(UPGRADE),--upgrade)

.PHONY: lock-images
lock-images: .venv/.deploy ## Ask the registries for the digests of base images and BuildKit, and write container/base-images.lock
	@$(BIN)/pretrain images --pin --environment $(ENVIRONMENT)

.PHONY: image-check
image-check: .venv/.dev ## Build the real Dockerfile without Docker and run jobs in the images (Debian or Ubuntu, root)
	@$(BIN)/python -m local_aws.images.dockerfile_check

# -- infrastructure: checks against AWS's own models, without an account
.PHONY: check-infra
check-infra: .venv/.dev node_modules/.done ## Check stacks, state machine, calls and permissions against AWS's own models
	@$(BIN)/python -m pytest -q tests/offline

# -- faults: fault injection in real executions
.PHONY: faults
faults: env ## Inject every fault and bad input on a separate embedded AWS, and report what happened (half an hour)
	@PYTHONPATH=. $(BIN)/python tests/faults/run.py $(ARGUMENTS)

# -- data: benchmarks against other libraries
.PHONY: bench-data bench-loader
.venv-bench/.done: tests/bench/requirements-peers.txt .venv/.dev
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pretrain.pth"
	$(BIN)/uv pip install --quiet --python .venv-bench/bin/python --no-deps -r tests/bench/requirements-peers.txt
	@touch $@

bench-data: .venv-bench/.done ## Benchmark text to token shards against datatrove, datasets, litdata and MDSWriter
	@mkdir -p .cache/bench && PYTHONPATH=. $(BIN)/python tests/bench/data.py

.PHONY: bench-prepare-resume
bench-prepare-resume: .venv/.dev ## Kill preparations with SIGKILL, change their input, and compare with runs from nothing (TRIALS=200)
	@PYTHONPATH=. $(BIN)/python tests/bench/prepare_resume.py --trials $(or $(TRIALS),200)

.PHONY: bench-instances
bench-instances: .venv/.dev ## Several processing instances: equal bytes of 1, 2 and 4, and the cost of coordination up to 100
	@mkdir -p .cache/bench && PYTHONPATH=. $(BIN)/python tests/bench/instances.py

bench-loader: .venv-bench/.done ## Benchmark the token loader against litdata, MDS and torchtitan's own
	@mkdir -p .cache/bench && PYTHONPATH=. .venv-bench/bin/python tests/bench/loader.py

# -- training: overhead per step, and resume after a kill
.PHONY: bench-train bench-resume bench-memory
bench-train: .venv/.dev ## Benchmark our trainer and loader against bare torchtitan, and each option: overhead per step (BLOCKS=12)
	@OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/bench/train.py --blocks $(or $(BLOCKS),12)

bench-resume: .venv/.dev ## Kill jobs with SIGKILL, resume them, and compare bitwise with an uninterrupted run (TRIALS=20)
	@PYTHONPATH=. $(BIN)/python tests/bench/resume.py --trials $(or $(TRIALS),20)

.PHONY: bench-compile
bench-compile: .venv/.dev ## A second start with what the first compiled, against compiling anew (ROUNDS=2)
	@PYTHONPATH=. $(BIN)/python tests/bench/compile_cache.py --rounds $(or $(ROUNDS),2)

.PHONY: bench-restore
bench-restore: env ## What a resume reads, and seconds to its first step, on the embedded AWS (HOSTS="2 4")
	@PYTHONPATH=. $(BIN)/python tests/bench/restore.py $(or $(HOSTS),2 4)

.PHONY: bench-gpu
bench-gpu: ## Benchmark CUDA devices and write docs/gpu-bench.md (ARGS="--minutes 9 --devices 8"; PYTHON=..., else .venv's; installs nothing)
	@PYTHONPATH=. $(if $(filter file,$(origin PYTHON)),$(BIN)/python,$(PYTHON)) tests/bench/gpu.py --write docs/gpu-bench.md $(ARGS)

bench-memory: .venv/.dev ## Run torch's memory tracker over all 32 layers of llama3_8b, for comparison with the estimate
	@PYTHONPATH=. $(BIN)/python tests/training/memory_tracker.py '{"local_batch_size": 1}'

# -- documents and pictures
.PHONY: docs chromium screenshots
docs: .venv/.dev ## Write the generated documents: docs/configuration.md and the schemas of input and events
	$(BIN)/python -m infra.cli.configuration_docs docs/configuration.md
	$(BIN)/python -m infra.run.input_schema > docs/run-input.schema.json
	$(BIN)/python -m infra.run.run_event > docs/run-event.schema.json

chromium: ## Install Debian's headless Chromium for the report's tests, where none is present and root may install it
	@command -v $${CHROMIUM:-chromium-headless-shell} chromium chromium-browser google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium-headless-shell >/dev/null; } \
	  || echo "no Chromium found, so the report's browser tests will be skipped; install one, or set CHROMIUM"

screenshots: env chromium ## Retake the README's pictures from a run on the embedded AWS (make local first)
	@$(BIN)/python tests/docs/screenshots.py

test: chromium

.PHONY: audit
audit: .venv/.dev ## Look up known vulnerabilities of every locked package (needs PyPI's advisories; not part of `make test`)
	@for lock in requirements.txt requirements-dev.txt container/requirements-data_prep.txt container/requirements-corpus.txt container/requirements-training.txt local_aws/requirements.txt; do \
	  echo "$$lock"; $(BIN)/pip-audit --strict --no-deps --disable-pip -r $$lock || exit 1; done
