# `make demo` and `make test` do everything, on a bare Debian 12, as root. `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin

# Tests run side by side in this many processes; ARGS goes to whatever is run: make test ARGS='-k audit -x'
WORKERS ?= 3
ARGS ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing: Debian packages, and the locked Python packages in .venv
	@scripts/setup.sh

.PHONY: setup-runtime
setup-runtime: ## the same without the test tools: enough to run the controller
	@scripts/setup.sh --runtime

.PHONY: setup-mover
setup-mover: ## the same, and what `ebbtide mover nova` needs besides
	@scripts/setup.sh --mover

.PHONY: demo
demo: setup ## the main job, told as it goes: computes join, three are scaled in, one is recovered
	@$(BIN)/ebbtide demo $(ARGS)

.PHONY: test
test: setup ## all tests but those of the targets below
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(addprefix --ignore=tests/,acceptance stories demo nat drains sweep lab tenants isolation odl openstack) $(ARGS)

.PHONY: test-kernel
test-kernel: setup ## some tests on the kernel's datapath, in a virtual machine: minutes each, no part of `make test`
	@scripts/test-kernel.sh $(ARGS)

.PHONY: acceptance
acceptance: setup ## the specification, line by line: what was done, what was seen, and whether it passed
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder tests/acceptance tests/stories $(ARGS)

.PHONY: test-demo
test-demo: setup ## the demo as a user runs it: green, and red with each fault that it can be given
	@$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder tests/demo $(ARGS)

.PHONY: nat
nat: setup ## the NAT of a router moves, or whoever has it dies, on real switches with connections open all the while
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder tests/nat $(ARGS)

.PHONY: drains
drains: setup ## drains on real switches, a day in the life, single strikes of `make crash-sweep`, and the lab itself
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder tests/drains tests/sweep tests/lab $(ARGS)

.PHONY: tenants
tenants: setup ## what tenants live on, on real switches: routers, the outside, IPv6, DHCP, metadata, MTU
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --places 3 tests/tenants $(ARGS)

.PHONY: isolation
isolation: setup ## security groups on real switches, and attacks of a VM on its neighbours while another tenant loses nothing
	@$(BIN)/pytest tests/isolation $(ARGS)

.PHONY: test-networking-odl
test-networking-odl: setup ## Neutron with networking-odl as a client, from a pinned set of packages (which this installs)
	@scripts/setup-openstack.sh odl
	@$(BIN)/pytest tests/odl $(ARGS)

.PHONY: test-driver
test-driver: setup ## stories of our driver in a real Neutron, with MariaDB and computes of the lab
	@scripts/setup-openstack.sh cloud
	@$(BIN)/pytest openstack/neutron-ebbtide/tests $(ARGS)

.PHONY: neutron
neutron: setup ## both of these side by side, as in CI, but for the measures of the driver
	@scripts/setup-openstack.sh cloud
	@scripts/setup-openstack.sh odl
	@$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder openstack/neutron-ebbtide/tests tests/odl \
	  --ignore openstack/neutron-ebbtide/tests/test_measures.py $(ARGS)

.PHONY: openstack-lab
openstack-lab: setup ## a lab with a real OpenStack in it: three hosts, in two minutes once its packages are there
	@scripts/setup-openstack.sh cloud
	@$(BIN)/python -m ebbtide.lab.cloud up $(ARGS)

.PHONY: test-openstack
test-openstack: setup ## stories of a real OpenStack in a lab, with its own clients
	@scripts/setup-openstack.sh cloud
	@$(BIN)/pytest tests/openstack $(ARGS)

.PHONY: crash-sweep
crash-sweep: setup ## a drain, struck at its every point, simulated and on real switches with traffic: an hour
	@$(BIN)/python -m tests.sweep --workers 2 $(ARGS)
	@$(BIN)/python -m tests.sweep.real --sample 0 $(ARGS)
	@$(BIN)/python -m tests.sweep --workers 2 --whom store --sample 60 $(ARGS)
	@$(BIN)/python -m tests.sweep --workers 2 --whom peer --sample 60 $(ARGS)
	@! $(BIN)/python -m tests.sweep --workers 2 --planted --sample 60 $(ARGS)

.PHONY: lint
lint: setup ## style, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: bench
bench: ## how fast and how small, against Open vSwitch's own tools and OVN (which this installs)
	@scripts/setup.sh --bench
	@$(BIN)/python -m bench $(ARGS)

.PHONY: clean
clean: ## remove what tests, linters and benchmarks have written
	@rm -rf build bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## the virtual environments as well
	@rm -rf .venv .venv-odl .venv-openstack src/ebbtide.egg-info
