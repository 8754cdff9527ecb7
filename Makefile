# Needs Python >= 3.11 with pip, and GNU make. Everything else is installed into .venv.
# Paths are relative, so the checkout may lie in a folder with spaces.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
RUNTIME := .venv/.runtime
DEVELOPMENT := .venv/.development
PYDVL := .venv/peers/pydvl/.installed
SHARING_CLIENT := .venv/sharing-client/.installed
BOOKS := limit-order-book litebook liquibook orderly-chaos akhil4n-orderbook cython-orderbook \
	lightmatchingengine pyorderbook obook manticore-orderbook fastlob order-matching nanobook
NODE_BOOKS := hft-limit-order-book nodejs-order-book
MATCHING_PEERS := $(BOOKS:%=.venv/peers/%/.installed) $(NODE_BOOKS:%=.venv/peers/%/.npm-installed)
GENERATOR := .venv/clients/generator/.installed
STRIPE_MOCK := .venv/go/bin/stripe-mock
TEST_JOBS ?= 2
PYTHON ?=
export PYTHON
# Container images like to set this; without bytecode every start takes 4.5 s longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(RUNTIME) ## Play one whole trade on real data, then serve it (EXIT=1: end after it)
	@$(BIN)/market demo $(if $(EXIT),--exit)

.PHONY: up
up: $(RUNTIME) ## Serve on persistent data in .market/ (PORT=8000)
	@$(BIN)/market up $(if $(PORT),--port $(PORT))

.PHONY: test
test: $(DEVELOPMENT) $(GENERATOR) $(SHARING_CLIENT) ## Run all tests (ARGS="-k name")
	@$(BIN)/python -m pytest -n $(TEST_JOBS) --dist=loadfile --no-loadscope-reorder $(ARGS)

# Its dependencies conflict with ours, so it lives in an environment of its own.
$(GENERATOR): tests/clients/generator.lock | $(RUNTIME)
	@$(BIN)/python -m venv .venv/clients/generator
	@.venv/clients/generator/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-input --no-deps --require-hashes --requirement $<
	@touch $@

.PHONY: generated-client
generated-client: $(GENERATOR) ## Make a Python client from openapi/ with a stock generator
	@.venv/clients/generator/bin/openapi-python-client generate --path openapi/market.json \
		--config tests/clients/generator.yaml --meta none --overwrite \
		--output-path .venv/clients/generated/market_client

# Apart from `test`: tracing branches doubles the processor time on Python 3.11.
.PHONY: coverage
coverage: $(DEVELOPMENT) $(GENERATOR) $(SHARING_CLIENT) ## Run all tests and report branch coverage (at least 90 %)
	@$(BIN)/python -m pytest -n $(TEST_JOBS) --dist=loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90 $(ARGS)

.PHONY: sharing-client
sharing-client: $(SHARING_CLIENT) ## Install the official Delta Sharing client for its tests

.PHONY: test-stripe
test-stripe: $(DEVELOPMENT) $(STRIPE_MOCK) ## Send every request of the Stripe rail's tests to stripe-mock, too
	@STRIPE_MOCK=$(STRIPE_MOCK) $(BIN)/python -m pytest -q tests/settlement/rails \
		tests/settlement/rails/contract_stripe_mock.py $(ARGS)

.PHONY: soak
soak: $(DEVELOPMENT) ## Test the ledger against its shadow with random seeds (SOAK_MINUTES=10)
	@SOAK_MINUTES=$(or $(SOAK_MINUTES),10) $(BIN)/python -m pytest -q -s tests/settlement/soak_ledger.py $(ARGS)

.PHONY: kill-ledger
kill-ledger: $(DEVELOPMENT) ## kill -9 PostgreSQL and the application while money moves (KILL_ROUNDS=30)
	@MARKET_KILL_ROUNDS=$(or $(KILL_ROUNDS),30) $(BIN)/python -m pytest -q tests/e2e/test_ledger_kills.py $(ARGS)

.PHONY: chaos-meter
chaos-meter: $(DEVELOPMENT) ## kill -9 application, Valkey and PostgreSQL under 16 readers (KILLS=30 of each)
	@MARKET_METER_KILLS=$(or $(KILLS),30) $(BIN)/python -m pytest -q tests/e2e/test_meter_kills.py $(ARGS)

.PHONY: kill-matching
kill-matching: $(DEVELOPMENT) ## kill -9 PostgreSQL and the application while orders trade (KILL_ROUNDS=30)
	@MARKET_MATCHING_KILL_ROUNDS=$(or $(KILL_ROUNDS),30) $(BIN)/python -m pytest -q tests/e2e/test_matching_kills.py $(ARGS)

.PHONY: check
check: check-lock check-style check-types check-layers check-schema check-openapi ## Run every check but the tests

.PHONY: check-lock
check-lock: $(DEVELOPMENT)
	@$(BIN)/python .ci/lock.py --check

.PHONY: check-style
check-style: $(DEVELOPMENT)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && echo "style: ok"

.PHONY: check-types
check-types: $(DEVELOPMENT)
	@$(BIN)/mypy --no-error-summary && echo "types: ok"

.PHONY: check-layers
check-layers: $(DEVELOPMENT)
	@$(BIN)/lint-imports --no-logo --cache-dir .import_linter_cache

.PHONY: check-schema
check-schema: $(DEVELOPMENT)
	@$(BIN)/python .ci/migrations.py

.PHONY: check-openapi
check-openapi: $(DEVELOPMENT)
	@$(BIN)/market openapi --check && $(BIN)/python .ci/openapi_lint.py

.PHONY: bench
bench: $(DEVELOPMENT) $(PYDVL) $(MATCHING_PEERS) $(SHARING_CLIENT) ## Run all benchmarks (figures as a table and as JSON)
	@$(BIN)/python -m tests.benchmarks

.PHONY: bench-ledger
bench-ledger: $(DEVELOPMENT) ## Benchmark the ledger (BENCH_LEDGER_POSTINGS shrinks the large one)
	@$(BIN)/python -m tests.benchmarks.bench_ledger

.PHONY: bench-matching-durable
bench-matching-durable: $(DEVELOPMENT)
	@$(BIN)/python -m tests.benchmarks.matching_durable

.PHONY: bench-meter
bench-meter: $(DEVELOPMENT) ## Benchmark the meter beside the same page without it (BENCH_METER_ROUNDS)
	@$(BIN)/python -m tests.benchmarks.bench_meter

.PHONY: bench-delivery
bench-delivery: $(DEVELOPMENT) $(SHARING_CLIENT) ## Benchmark Delta Sharing and pages of rows (BENCH_DELIVERY_MB)
	@$(BIN)/python -m tests.benchmarks.bench_delivery

.PHONY: bench-knn-shapley
bench-knn-shapley: $(DEVELOPMENT) $(PYDVL)
	@$(BIN)/python -m tests.benchmarks.bench_knn_shapley

.PHONY: bench-matching
bench-matching: $(DEVELOPMENT) $(MATCHING_PEERS) ## Benchmark matching: book, durable engine, HTTP (12 minutes)
	@$(BIN)/python -m tests.benchmarks.bench_matching

.PHONY: fmt
fmt: $(DEVELOPMENT) ## Format and fix the code
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

.PHONY: openapi
openapi: $(DEVELOPMENT) ## Write openapi/ from the code
	@$(BIN)/market openapi

.PHONY: lock
lock: $(DEVELOPMENT) ## Write requirements.lock from pyproject.toml (UPGRADE=1: newest)
	@$(BIN)/python .ci/lock.py $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove caches and .venv; the data in .market/ stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		.schemathesis .coverage .coverage.* build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements.lock pyproject.toml .ci/bootstrap.sh
	@sh .ci/bootstrap.sh runtime
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	@sh .ci/bootstrap.sh development
	@touch $@

# Peers that benchmarks compare with, each in an environment of its own: their dependencies differ
# from ours and from each other's. One that cannot be installed here is reported as missing.
.venv/peers/%/.installed: tests/benchmarks/peers/%.lock | $(RUNTIME)
	@$(BIN)/python -m venv .venv/peers/$*
	@.venv/peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--no-deps --require-hashes --requirement $< && touch $@ || \
		{ echo "$* could not be installed."; test $* != pydvl; }

.venv/peers/%/.npm-installed: tests/benchmarks/peers/%/package-lock.json | $(RUNTIME)
	@mkdir -p .venv/peers/$*
	@cp tests/benchmarks/peers/$*/package.json $< .venv/peers/$*/
	@cd .venv/peers/$* && npm ci --silent --no-audit --no-fund --ignore-scripts && touch .npm-installed \
		|| echo "$* could not be installed (it needs Node and npm)."

# The official Delta Sharing client pins an older pyarrow than ours: an environment of its own.
$(SHARING_CLIENT): tests/contracts/sharing/client.lock | $(DEVELOPMENT)
	@$(BIN)/python -m venv .venv/sharing-client
	@.venv/sharing-client/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--no-deps --require-hashes --requirement $<
	@touch $@

# Stripe's own judge of requests, built by Go >= 1.24; modules stay inside .venv, and removable.
$(STRIPE_MOCK): | $(RUNTIME)
	@command -v go >/dev/null || { echo "make test-stripe needs Go 1.24 or newer on the PATH." >&2; exit 1; }
	@GOBIN="$(CURDIR)/.venv/go/bin" GOPATH="$(CURDIR)/.venv/go/path" GOFLAGS=-modcacherw \
		go install github.com/stripe/stripe-mock@latest
