# Every target sets up what it needs: a machine with Python 3.11 or newer and make is enough.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCENARIO ?= primary-lost
# Processes that share the tests out.
WORKERS ?= 2
# On a busy machine a test with real processes and deadlines may be late: in `make test` a few may run once more.
ONCE_MORE := --reruns 1 --reruns-delay 2
# The CDK CLI, npm and jsii all run on the Node.js that the virtual environment holds.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Patroni and etcd, for the benchmark. As root, PostgreSQL and so Patroni run as nobody, who may not reach a Python below /root.
PATRONI := build/patroni
PATRONI_PYTHON ?= $(if $(filter 0,$(shell id -u)),$(firstword $(wildcard /usr/bin/python3) $(PYTHON)),$(PYTHON))
PACKAGES := app.py stacks recovery functions local_cloud deployment drctl drills privilege assessment benchmarks tests

.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)

help: ## list the targets by purpose
	@awk -F ':.*## ' '/^## --- / { sub(/^## --- /, ""); sub(/ -*$$/, ""); printf "\n%s\n", $$0 } \
		/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

## --- set-up -----------------------------------------------------------------------------------------------------
setup: $(READY) ## install everything into .venv and node_modules (done by every other target when needed)

$(READY): requirements.txt constraints.txt package.json package-lock.json
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python %d.%d was found as $(PYTHON); 3.11 or newer is needed: run make PYTHON=/path/to/python3.11" % v[:2])'
	@echo "Setting up .venv (about 1.5 GB, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt --constraint constraints.txt
	@$(BIN)/npm ci --silent --no-audit --no-fund
	@touch $@

## --- the main job and its proof ----------------------------------------------------------------------------------
drill: $(READY) ## lose the primary on this machine and measure the recovery (SCENARIO=list for others)
	@$(BIN)/python -m drills --scenario $(SCENARIO)

verify-drills: $(READY) ## look whether any drill's report on this machine was changed
	@$(BIN)/python -m drills --verify

cycles: $(READY) ## ten times in a row: failover, reprotect, switchover, reprotect, under load (CYCLES=n for others)
	@$(BIN)/python -m drills --cycles $(or $(CYCLES),10)

fences: $(READY) ## the primary is cut off or hangs and comes back at any moment of the failover (ROUNDS=n, SEED=n)
	@$(BIN)/python -m drills --partitions $(or $(ROUNDS),10) --seed $(or $(SEED),1)

soak: $(READY) ## seeded random faults, load and operator's orders, and what must hold after each (SEEDS=n, FROM=n, WORLD=virtual)
	@$(BIN)/python -m drills.soak --seeds $(or $(SEEDS),300) --first $(or $(FROM),1) $(if $(filter virtual,$(WORLD)),--virtual)

faults: $(READY) ## a failover for each call of each state that is throttled, unanswered or killed (STATE=name)
	@$(BIN)/python -m drills.soak --steps "$(STATE)"

test: lint ## lint, types, unit and integration tests, coverage of at least 90 %
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest tests/unit -q -n $(WORKERS) --dist loadscope $(ONCE_MORE)
	@$(BIN)/coverage run -m pytest tests/integration -q -n $(WORKERS) --dist loadscope $(ONCE_MORE)
	@$(MAKE) --no-print-directory coverage

coverage: $(READY)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=90

unit-fast: $(READY) ## the inner loop: pure rules only, no PostgreSQL, no synthesis (seconds)
	@$(BIN)/python -m pytest tests/unit --fast -q -n $(WORKERS) --durations=0 --durations-min=2

unit: $(READY) ## unit tests alone
	@$(BIN)/python -m pytest tests/unit -q -n $(WORKERS) --dist loadscope

integration: $(READY) ## integration tests against a local cloud of their own
	@$(BIN)/python -m pytest tests/integration -q -n $(WORKERS) --dist loadscope

integration-aws: $(READY) ## the same tests against the account that cfn-outputs/flat-outputs.json describes
	@$(BIN)/python -m pytest tests/integration -q --outputs cfn-outputs/flat-outputs.json

snapshots: $(READY) ## write the templates' snapshots and what docs/ says of them again (STATEFUL=yes: also the list of what replaces data)
	@$(BIN)/python -m tests.unit.stacks.snapshot $(if $(filter yes,$(STATEFUL)),--stateful)
	@$(MAKE) --no-print-directory costs settings-reference pictures

pictures: $(READY) ## draw the machines and the nested stacks into docs/ from the templates
	@$(BIN)/python -m stacks.picture

dashboard: $(READY) ## draw the deployed dashboard into docs/dashboard.png, an hour with a lost primary in it
	@$(BIN)/python -m drills.dashboard

rehearse-time: $(READY) ## 1,000 seeded incidents in virtual time with AWS's delays: a table and reports/incidents.json
	@$(BIN)/python -m drills.virtual

least-privilege: $(READY) ## show that every permission is used and needed: a table and reports/least-privilege.json
	@$(BIN)/python -m privilege

soak-log: $(READY) ## kill the archive 500 times, and pass a transaction of 1 GB through it
	@$(BIN)/python -m pytest tests/unit/recovery/test_archive_under_faults.py -q --soak

bench: $(READY) ## benchmarks: a table and reports/bench.json
	@$(BIN)/python -m benchmarks

bench-failover: $(READY) $(PATRONI)/.ready ## failover beside Patroni's (RUNS=n alternations; ADD=yes adds to those measured before)
	@$(BIN)/python -m benchmarks --only failover --runs $(or $(RUNS),10) $(if $(filter yes,$(ADD)),,--anew)

$(PATRONI)/.ready: benchmarks/patroni.txt
	@rm -rf $(PATRONI) && mkdir -p $(PATRONI)/package
	@$(PATRONI_PYTHON) -m venv $(PATRONI)/venv
	@$(PATRONI)/venv/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@cd $(PATRONI)/package && apt-get -qq -o APT::Sandbox::User=root download etcd-server && dpkg-deb -x etcd-server_*.deb ../etcd \
	  || { echo "etcd is missing: Debian's package etcd-server could not be downloaded; run apt-get update and try again."; exit 1; }
	@touch $@

oscal: $(READY) ## what implements which control, as OSCAL: reports/oscal/component-definition.json (PROTECT=false: unprotected)
	@PROTECT=$(or $(PROTECT),true) $(BIN)/python -m assessment oscal --suffix "$(or $(ENV_SUFFIX),prod)"

compliance: $(READY) ## the same as a page to read: reports/compliance.html
	@PROTECT=$(or $(PROTECT),true) $(BIN)/python -m assessment compliance --suffix "$(or $(ENV_SUFFIX),prod)"

costs: $(READY) ## count what is billed into docs/costs.md
	@$(BIN)/python -m assessment costs --suffix docs

settings-reference: $(READY) ## write docs/settings.md from the settings
	@$(BIN)/python -m stacks.settings_reference

## --- code ---------------------------------------------------------------------------------------------------------
lint: $(READY) ## ruff, mypy, and actionlint (with shellcheck) and zizmor for the workflows
	@$(BIN)/ruff check $(PACKAGES)
	@$(BIN)/ruff format --check --quiet $(PACKAGES)
	@$(BIN)/mypy
	@$(BIN)/actionlint .github/workflows/*.yml
	@$(BIN)/zizmor --quiet --offline --persona=auditor --strict-collection --collect=all .github

hooks: $(READY) ## check format, lint and links before each commit (git's own hook)
	@$(BIN)/pre-commit install --install-hooks

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix --quiet $(PACKAGES)
	@$(BIN)/ruff format $(PACKAGES)

## --- operate ------------------------------------------------------------------------------------------------------
drctl: $(READY) ## the operator's command line: make drctl ARGS="status" (or bin/drctl status)
	@$(BIN)/python -m drctl $(ARGS)

reprotect: $(READY) ## make the lost standby again: make reprotect ENV_SUFFIX=dev (LOCAL=--local in the local cloud)
	@$(BIN)/python -m drctl reprotect --suffix "$(ENV_SUFFIX)" $(LOCAL)

switchover: $(READY) ## change the roles as planned, losing nothing: make switchover ENV_SUFFIX=dev
	@$(BIN)/python -m drctl switchover --suffix "$(ENV_SUFFIX)" $(LOCAL)

exercise: $(READY) ## hold a drill on a throw-away copy: make exercise ENV_SUFFIX=dev KIND=replica (restore, switchover, sweep; ABORT=yes)
	@$(BIN)/python -m drctl exercise $(if $(filter yes,$(ABORT)),--abort --reason "$(REASON)","$(KIND)") --suffix "$(ENV_SUFFIX)" $(LOCAL)

pause: $(READY) ## stop automatic action for a while: make pause ENV_SUFFIX=dev MINUTES=30 REASON="patching"
	@$(BIN)/python -m drctl pause --suffix "$(ENV_SUFFIX)" --minutes "$(MINUTES)" --reason "$(REASON)" $(LOCAL)

resume: $(READY) ## let the system act again: make resume ENV_SUFFIX=dev
	@$(BIN)/python -m drctl resume --suffix "$(ENV_SUFFIX)" $(LOCAL)

override: $(READY) ## accept a loss so that a refused failover goes on: make override ENV_SUFFIX=dev ACCEPT=lag REASON="…" (MINUTES=60)
	@$(BIN)/python -m drctl override --suffix "$(ENV_SUFFIX)" $(foreach each,$(ACCEPT),--accept "$(each)") --reason "$(REASON)" $(if $(MINUTES),--minutes "$(MINUTES)") $(LOCAL)

evidence: $(READY) ## sealed records: make evidence ENV_SUFFIX=dev (VERIFY=yes finds any change, DOWNLOAD=folder fetches)
	@$(BIN)/python -m drctl evidence --suffix "$(ENV_SUFFIX)" $(if $(filter yes,$(VERIFY)),--verify) $(if $(DOWNLOAD),--download "$(DOWNLOAD)") $(LOCAL)

history: $(READY) ## incidents and operations, newest first: make history ENV_SUFFIX=dev
	@$(BIN)/python -m drctl history --suffix "$(ENV_SUFFIX)" $(LOCAL)

log: $(READY) ## list the transaction log's transactions on AWS: make log ENV_SUFFIX=dev SINCE=2026-11-22T10:00:00
	@$(BIN)/python -m drctl log list --suffix "$(ENV_SUFFIX)" $(LOCAL) $(if $(SINCE),--since "$(SINCE)") $(if $(BEFORE),--before "$(BEFORE)")

restore: $(READY) ## restore beside the members on AWS: make restore ENV_SUFFIX=dev BEFORE_TRANSACTION=1:0/3000148 or TO_TIME=…
	@$(BIN)/python -m drctl restore --suffix "$(ENV_SUFFIX)" $(LOCAL) $(if $(BEFORE_TRANSACTION),--before-transaction "$(BEFORE_TRANSACTION)") $(if $(TO_TIME),--to-time "$(TO_TIME)")

## --- AWS ----------------------------------------------------------------------------------------------------------
synth: $(READY) ## synthesise the templates into cdk.out/$(ENV_SUFFIX)
	@$(BIN)/python -m deployment synth --suffix "$(ENV_SUFFIX)"

preflight: $(READY) ## check what the account must have before a deploy: make preflight ENV_SUFFIX=dev
	@$(BIN)/python -m deployment preflight --suffix "$(ENV_SUFFIX)"

deploy: $(READY) ## check the account and deploy to AWS with the usual credentials: make deploy ENV_SUFFIX=dev
	@$(BIN)/python -m deployment deploy --suffix "$(ENV_SUFFIX)"

destroy: $(READY) ## destroy what was deployed to AWS: make destroy ENV_SUFFIX=dev
	@$(BIN)/python -m deployment destroy --suffix "$(ENV_SUFFIX)"

suffix: ## the environment suffix of a branch: make suffix BRANCH=feature/login
	@$(PYTHON) -m deployment.branch suffix --branch="$$BRANCH"

## --- local cloud --------------------------------------------------------------------------------------------------
local-up: $(READY) ## start the local cloud (state in .local-cloud)
	@$(BIN)/python -m deployment local-up

local-down: $(READY) ## stop the local cloud and remove all that it left
	@$(BIN)/python -m deployment local-down

local-deploy: $(READY) ## deploy into the local cloud: make local-deploy ENV_SUFFIX=dev
	@$(BIN)/python -m deployment deploy --local --suffix "$(ENV_SUFFIX)"

local-destroy: $(READY) ## destroy what was deployed into the local cloud: make local-destroy ENV_SUFFIX=dev
	@$(BIN)/python -m deployment destroy --local --suffix "$(ENV_SUFFIX)"

clean: ## remove what can be made again
	@rm -rf $(VENV) node_modules build cdk.out cfn-outputs reports .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
