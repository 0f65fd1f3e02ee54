# Hyper: containers in virtual machines, for containerd. `make help` lists what can be made.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=

GO ?= go
OUTPUT := $(abspath _output)
# Where downloads and kernels are kept, outside the checkout.
export HYPER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hyper

HOST_COMMANDS := $(filter-out hyper-agent,$(notdir $(wildcard cmd/*)))
# As containerd builds its own shims: its API is spoken by ttrpc, and gRPC, HTTP and TLS are left out of the program.
HOST_TAGS := no_grpc
# The agent is the only program that needs C: seccomp filters, and runc's code that enters namespaces.
AGENT_TAGS := seccomp netgo osusergo
AGENT_LDFLAGS := -s -w -linkmode external -extldflags "-static"

# Packages that run without a VM; what is in test/ starts daemons and machines.
HOST_PACKAGES = $(shell $(GO) list ./... | grep -v '/test\(/\|$$\)')

# A test must not begin before what it needs is built; Go and the kernel's build use all processors themselves.
.NOTPARALLEL:

.PHONY: all help
all: build guest ## Build everything an installation needs, into _output

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

##@ Building

.PHONY: setup build agent guest kernel
setup: ## Install the distribution's packages that building and testing need
	@hack/setup

build: ## Build the programs of the host: the shim, hyperctl
	@mkdir -p $(OUTPUT)/bin
	@for c in $(HOST_COMMANDS); do \
		echo "building $$c"; \
		CGO_ENABLED=0 $(GO) build -buildvcs=auto -trimpath -tags '$(HOST_TAGS)' -ldflags '-s -w' -o $(OUTPUT)/bin/$$c ./cmd/$$c; \
	done

agent: ## Build the guest's agent, statically linked
	@mkdir -p $(OUTPUT)/libexec
	@echo "building hyper-agent"
	@CGO_ENABLED=1 $(GO) build -trimpath -tags '$(AGENT_TAGS)' -ldflags '$(AGENT_LDFLAGS)' \
		-o $(OUTPUT)/libexec/hyper-agent ./cmd/hyper-agent

guest: agent ## Build the guest images: the distribution's kernel, and HyperKernel when it is built
	@hack/build-guest $(OUTPUT)

kernel: ## Build HyperKernel (a quarter of an hour, once), and its guest image when the agent is there
	@guest/kernel/build >/dev/null
	@if [ -f $(OUTPUT)/libexec/hyper-agent ]; then hack/build-guest $(OUTPUT); fi

.PHONY: generate clean
generate: ## Generate code from the protocol's definitions
	$(GO) generate ./...

clean: ## Remove what was built; the cache stays
	rm -rf $(OUTPUT)

##@ Installing

.PHONY: install uninstall
install: ## Install under PREFIX (/usr/local), staged in DESTDIR; run `make` first
	@hack/install $(OUTPUT) "$(DESTDIR)$(PREFIX)" "$(DESTDIR)$(SYSCONFDIR)/hyper"

uninstall: ## Remove what install has put under PREFIX; the configuration stays
	rm -f $(addprefix "$(DESTDIR)$(PREFIX)"/bin/,$(HOST_COMMANDS))
	rm -rf "$(DESTDIR)$(PREFIX)"/share/hyper

##@ Checking

.PHONY: lint test race fuzz bench demo containerd nerdctl kubernetes virtiofsd
lint: ## Check formatting, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		if [ -n "$$unformatted" ]; then echo "not formatted as gofmt does:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

containerd: ## Fetch the containerds that the tests run against, into the cache
	@hack/fetch-containerd >/dev/null

nerdctl: ## Build nerdctl into the cache, for the test that runs it
	@hack/fetch-nerdctl >/dev/null

kubernetes: ## Build a Kubernetes into the cache, for the test that runs it (a quarter of an hour)
	@hack/fetch-kubernetes >/dev/null

virtiofsd: ## Fetch Debian 13's virtiofsd into the cache, for the test that runs it on Debian 12
	@hack/fetch-virtiofsd >/dev/null

test: setup build guest kernel containerd ## Run every test, the end-to-end ones on real VMs included
	@status=0; \
	HYPER_OUTPUT=$(OUTPUT) $(GO) test -count=1 -timeout 10m -p 1 $$($(GO) list ./... | grep -v '/test/\(e2e\|cri\|kube\)$$') || status=1; \
	HYPER_OUTPUT=$(OUTPUT) $(GO) test -count=1 -timeout 40m ./test/e2e || status=1; \
	HYPER_OUTPUT=$(OUTPUT) $(GO) test -count=1 -timeout 30m ./test/cri || status=1; \
	HYPER_OUTPUT=$(OUTPUT) $(GO) test -count=1 -timeout 15m ./test/kube || status=1; \
	exit $$status

.PHONY: test-matrix test-long test-host
# In which cells of the suite of pods the long tests run: LONG=. is all three, a quarter of an hour.
LONG ?= containerd-2.*podsandbox

test-long: setup build guest kernel containerd ## Run the tests that take long: many pods, a GiB through a pod's network (LONG=…)
	HYPER_OUTPUT=$(OUTPUT) HYPER_TEST_LONG=1 $(GO) test -count=1 -timeout 40m -run '/$(LONG)/(faults|network)/(many|heavy)' ./test/cri

test-matrix: setup build guest kernel containerd ## Run the end-to-end tests on every containerd with every guest kernel, with templates and without
	HYPER_OUTPUT=$(OUTPUT) HYPER_TEST_MATRIX=full $(GO) test -count=1 -timeout 80m ./test/e2e
	HYPER_OUTPUT=$(OUTPUT) HYPER_TEST_MATRIX=full HYPER_TEST_TEMPLATES=off $(GO) test -count=1 -timeout 80m ./test/e2e

# What of the end-to-end tests and of those of CRI runs on the other host.
HOST_TESTS ?= ^(run|task|network|template|processors|faults)$$/^(exit_status|metrics|given|start|at_the_start|guest_panics)$$
HOST_CRI_TESTS ?= ^(container|logs|exec|attach|network|volumes|resources)$$/^(grace_period|streams|to_its_end|timeout|terminal|pod_to_pod|between_containers|host_port|memory|parts|ConfigMap|limits|huge_pages|.*_statistics)$$

test-host: setup build guest kernel containerd ## Run some tests on an emulated host with KVM, vhost and cgroups of version 2 (HOST_TESTS=…)
	HYPER_OUTPUT=$(OUTPUT) hack/test-host '$(HOST_TESTS)' '$(HOST_CRI_TESTS)' $(HOST_TEMPLATES)

race: ## Run the tests that need no VM under the race detector
	$(GO) test -race -count=1 -timeout 20m $(HOST_PACKAGES)

fuzz: ## Run every fuzz target for a few seconds (FUZZTIME=5s)
	@hack/fuzz $(FUZZTIME)

bench: setup build guest containerd ## Measure Hyper beside runc, a quarter of an hour (BENCH_FLAGS=-help tells more)
	HYPER_OUTPUT=$(OUTPUT) $(GO) run ./test/bench $(BENCH_FLAGS)

demo: setup build guest containerd ## Show a container in a VM of its own, under a private containerd
	HYPER_OUTPUT=$(OUTPUT) hack/demo
