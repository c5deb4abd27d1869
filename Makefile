# Every target does its own set-up, and does it once. `make` alone lists them.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON := .venv/bin/python
TOOLS := .venv-tools/bin

# Arguments for pytest: make test ARGS="-k sse"
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: ## make .venv: Sidestream, editable, and all it needs at locked versions
	@.make/venv .venv .locks/test.txt --with-project

.PHONY: tools
tools:
	@.make/venv .venv-tools .locks/lint.txt

.PHONY: system
system:
	@.make/system-packages

.PHONY: kubectl
kubectl:
	@.make/kubectl

.PHONY: demo
demo: setup ## see it work: fake providers and clients, on loopback, without keys
	@.venv/bin/sidestream demo --policies policies

.PHONY: demo-transparent
demo-transparent: setup ## the same, redirected by iptables (Linux, root)
	@.venv/bin/sidestream demo --policies policies --transparent

# Tests run although lint failed, so that one run shows all there is to mend.
.PHONY: test
test: ## lint, then the tests on every supported Python here (ARGS="-k sse" to choose)
	@$(MAKE) -j 4 setup tools system kubectl
	@.make/tests --prepare & prepared=$$!; \
	.make/lint && lint=0 || lint=1; \
	wait $$prepared && .make/tests $(ARGS) || exit 1; \
	[ $$lint = 0 ] || { echo "lint: failed, see above" >&2; exit 1; }

.PHONY: lint
lint: setup tools ## ruff, mypy, the import contracts, shellcheck
	@.make/lint

.PHONY: format
format: tools ## put code into shape
	@$(TOOLS)/ruff check --quiet --fix-only .
	@$(TOOLS)/ruff format --quiet .

.PHONY: lock
lock: ## resolve .locks/ again after a change of pyproject.toml (ARGS=--upgrade for new versions)
	@.make/lock $(ARGS)

.PHONY: bench-policy
bench-policy: setup ## measure what deciding and planning cost
	@$(PYTHON) -m sidestream.cli.bench $(ARGS)

.PHONY: soak
soak: setup ## half an hour of load and faults: nothing is lost, nothing leaks (ARGS="--minutes 5")
	@$(PYTHON) -m tests.soak $(ARGS)

.PHONY: soak-web
soak-web: setup system ## the soak for ten minutes with mitmweb open in a browser: memory stays bounded (ARGS="--minutes 2")
	@$(PYTHON) -m tests.soak --web --minutes 10 $(ARGS)

.PHONY: bench
bench: setup ## measure Sidestream beside stock mitmdump, Envoy and LiteLLM (Linux, root; ARGS=--quick)
	@.make/bench
	@PYTHONPATH=addon .venv-bench/bin/python -m tests.bench $(ARGS)

.PHONY: bench-telemetry
bench-telemetry: setup ## measure what records, metrics, costs and spans take of a call (Linux, root)
	@.make/bench
	@PYTHONPATH=addon .venv-bench/bin/python -m tests.bench.telemetry $(ARGS)

.PHONY: dashboard-picture
dashboard-picture: setup system ## draw the dashboard of a busy proxy under a real Prometheus; fail if a panel is empty (Linux, root)
	@.make/venv .venv-bench .locks/bench.txt
	@seen=$$(mktemp) && $(PYTHON) -m tests.dashboard $$seen $(ARGS) && \
	.venv-bench/bin/python -m tests.dashboard.drawing $$seen k8s/observability/dashboard.png; \
	status=$$?; rm -f $$seen; exit $$status

.PHONY: bench-control
bench-control: setup ## measure the control plane: 2,000 documents in 50 namespaces, and one change in them
	@$(PYTHON) -m tests.kubernetes.bench $(ARGS)

.PHONY: pictures
pictures: setup system ## take the pictures of mitmweb that the README shows (Chromium)
	@$(PYTHON) -m tests.pictures

.PHONY: bench-clients
bench-clients: setup ## measure HTTP clients that could call the providers
	@.make/venv .venv-bench .locks/bench.txt
	@PYTHONPATH=addon .venv-bench/bin/python -m tests.bench.http_clients $(ARGS)

.PHONY: clean
clean: ## remove environments and caches
	@rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
