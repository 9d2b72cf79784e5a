# Everything here runs on a fresh Debian machine as root; what is missing is installed by `setup`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.complete
# What real migration tools need to be fetched and to run; a machine may have them from elsewhere.
TOOL_PACKAGES = $(shell command -v javac >/dev/null || echo default-jdk-headless; command -v mvn >/dev/null || echo maven; \
	echo $(NODE_PACKAGES) ruby-activerecord ruby-pg)
# What fetches PostgREST and runs supabase-js.
NODE_PACKAGES = $(shell command -v node >/dev/null || echo nodejs; command -v npm >/dev/null || echo npm)
# What tests and demo need of Debian beside hack/cluster's own list.
PACKAGES := python3-venv postgresql-15 postgresql-15-pgaudit postgresql-client-15 nftables libfaketime systemd gcc \
	libc6-dev make curl

.PHONY: help setup demo test test-unit test-integration test-attacks test-attacks-17 test-postgres-15 test-api test-tools \
	test-tools-short test-e2e lint generate bench bench-access bench-harm bench-ddl bench-approval bench-api bench-audit bench-tenants \
	soak-audit soak cluster-up cluster-down

help: ## show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 20

setup: $(STAMP) ## Python environment, Debian packages, PostgreSQL 17
	@hack/cluster/install-prerequisites $(PACKAGES)
	@hack/postgres/fetch 17

$(STAMP): requirements-dev.lock pyproject.toml
	@echo "installing Python libraries into $(VENV)"
	python3 -m venv --clear $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(RUN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup ## the main job, narrated, on a real cluster (brings one up unless KUBECONFIG is set)
	@hack/cluster/install-prerequisites $(NODE_PACKAGES)
	@$(RUN)/python hack/demo

test: lint test-unit test-integration test-attacks-17 test-postgres-15 test-api test-tools-short test-e2e ## everything below

lint: setup ## ruff, mypy, which folder may import which
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	hack/no-package

test-unit: setup ## decisions, rendering, parsers: seconds, once Helm is built
	hack/cluster/build.sh
	$(RUN)/pytest tests/unit

test-integration: setup ## real API server, PostgreSQL with pgaudit, iptables and nftables in network namespaces
	hack/cluster/install-prerequisites $(NODE_PACKAGES)
	hack/cluster/build.sh
	hack/api/prepare postgrest nginx >/dev/null
	@echo "an S3 server for the archive's tests (built once, a minute or two)"
	hack/s3/build >/dev/null
	$(RUN)/pytest tests/integration -n 3 --dist loadfile --durations 15

test-attacks: test-attacks-17 test-postgres-15 ## the owner of the tables against the gate: a table of how each attack ends

test-attacks-17: setup ## the same on PostgreSQL 17, Debian trixie's, alone
	$(RUN)/pytest tests/attacks -n 3

GATE_TESTS := $(addprefix tests/integration/,$(addprefix ddl/test_,gate.py gate_install.py passes.py pass_kinds.py additive.py \
	effect.py rebuildable.py run.py run_steps.py classification.py) tenants/test_provision.py access/test_rule_roles.py \
	postgres servers/test_pgaudit.py)

test-postgres-15: setup ## attacks and all tests of the gate on PostgreSQL 15, Debian bookworm's
	VAULTBRIX_POSTGRES=15 $(RUN)/pytest tests/attacks $(GATE_TESTS) -n 3 --dist loadfile

test-api: setup ## the data API: real nginx, gateway, PostgREST and PostgreSQL
	hack/cluster/install-prerequisites $(NODE_PACKAGES)
	hack/api/prepare >/dev/null
	$(RUN)/pytest tests/api --durations 10

# By words of the tests' names: one test of each tool.
SHORT_TOOLS := (alembic or django or drizzle or knex or node-pg-migrate or prisma) and runs_approved_once \
	or dumps or (psycopg or asyncpg or node-postgres) and pool or with_the_policy

test-tools: setup ## real migration tools, dbt and drivers against the gate: the list is in docs/ddl.md
	hack/cluster/install-prerequisites $(TOOL_PACKAGES)
	hack/cluster/build.sh
	tests/tools/prepare >/dev/null
	$(RUN)/pytest tests/tools -n 2 --durations 15

test-tools-short: setup ## of these what pip and npm bring, without a cluster: two minutes
	hack/cluster/install-prerequisites $(NODE_PACKAGES)
	tests/tools/prepare python npm dbt >/dev/null
	$(RUN)/pytest tests/tools -n 2 --durations 15 -k "$(SHORT_TOOLS)"

test-e2e: setup ## the chart on the one-node cluster
	hack/cluster/install-prerequisites $(NODE_PACKAGES)
	hack/cluster/up
	hack/image/build
	$(RUN)/pytest tests/e2e

generate: setup ## CRDs, install.yaml, reference
	hack/cluster/build.sh
	$(RUN)/python hack/generate

bench: setup ## figures, with their floor in the same run
	hack/cluster/build.sh
	$(RUN)/pytest -s tests/bench

bench-access: setup ## direct access alone: about half an hour, on a machine that does nothing else
	hack/cluster/build.sh
	$(RUN)/pytest -s tests/bench/test_access.py

bench-harm: setup ## revoked sessions while PostgreSQL is in trouble, neighbours of attackers, the watchdog: a quarter of an hour
	hack/cluster/build.sh
	$(RUN)/pytest -s -q tests/bench/test_harm.py tests/bench/test_watchdog.py tests/bench/test_locks.py

bench-ddl: setup ## the gate's cost by kind of statement and for dbt and Django, and approvals: a few minutes
	hack/cluster/build.sh
	tests/tools/prepare python dbt >/dev/null
	$(RUN)/pytest -s tests/bench/test_ddl*.py

bench-audit: setup ## what auditing costs, the shipper beside rsyslog, and questions to 10 million records: about 40 minutes
	hack/cluster/install-prerequisites dbconfig-no-thanks rsyslog rsyslog-pgsql
	$(RUN)/pytest -s -q tests/bench/test_audit*.py

bench-tenants: setup ## many Tenants at once against the same SQL by psql: about half an hour
	hack/cluster/build.sh
	$(RUN)/pytest -s -q tests/bench/test_tenants.py

bench-approval: setup ## what admission costs a write, approved to open, rotations: about ten minutes
	hack/cluster/build.sh
	$(RUN)/pytest -s -q tests/bench/test_approval.py tests/bench/test_rotation.py

bench-api: setup ## the data API by the gateway against PostgREST alone, ended keys, changed schemas: about ten minutes
	hack/cluster/install-prerequisites $(NODE_PACKAGES)
	hack/cluster/build.sh
	hack/api/prepare postgrest nginx wrk >/dev/null
	$(RUN)/pytest -s -q tests/bench/test_api.py

soak-audit: setup ## 100 kills, crashes, full disks, damaged files: the audit store against the log, a table
	$(RUN)/pytest -s -q tests/integration/audit/test_campaign.py -m soak

soak: setup ## long campaigns
	hack/cluster/build.sh
	$(RUN)/pytest -s tests -m soak

cluster-up: ## a real one-node Kubernetes without Docker
	@hack/cluster/install-prerequisites
	hack/cluster/up

cluster-down: ## take it away again, without a trace
	@hack/cluster/down
