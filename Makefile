# Every command of the project; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# containerd of the demo: 2.1 or 1.7.
CONTAINERD ?= 2.1
# KEEP=1: the demo leaves everything running.
KEEP ?=
# More for the benchmark runner: --cells 'pod_pod.64.*' --rounds 3.
BENCH_ARGS ?=
# Pods of `make bench-pods`, a hundred at a time; 1000 to see that nothing is left of many.
PODS ?= 300
# Seconds for each property test, and which: part of a name.
FUZZ_SECONDS ?= 600
FUZZ ?=
PREFIX ?= /usr
DESTDIR ?=

target := $(or $(CARGO_TARGET_DIR),target)
# Tests of the real binaries, in the order in which they run; `cargo test` alone leaves them out.
live := frontends networks tunnel uplinks frr numa tunnels plug offload fib hostif tuner node plugin wrapper cleanup package
# The same in a machine of their own.
live_in_vm := vfio placement
# With a Kubernetes.
live_with_k8s := k8s controller
# And the plugin's cases with what Go builds for them; `make test` has them, too, where it is there already.
cases_with_k8s := _2_2 _2_3 _2_4 balloons
keep := $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: help setup build demo clean-demo check format lint unit doc test test-k8s test-numa test-deep fuzz integration bench bench-cluster bench-pods install deb

help: ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is missing (packages, Rust), fetch containerd 1.7 and 2.1 into target/
	@integration/setup/packages.sh
	@integration/setup/rust.sh
	@integration/setup/containerd.sh

build: setup ## build everything once, for the demo and the tests
	@$(CARGO) build --workspace --locked

demo: build ## two unprivileged DPDK pods talk through the vRouter (CONTAINERD=1.7, KEEP=1)
	@CONTAINERD=$(CONTAINERD) $(target)/debug/ringway-demo $(keep)

clean-demo: ## remove what a kept or killed demo or test left running
	@if [[ -x $(target)/debug/ringway-demo ]]; then $(target)/debug/ringway-demo --clean; fi

check: setup format lint unit doc ## everything that needs neither root nor hugepages

# A distribution's Rust may come without rustfmt or clippy. That is said, not hidden.
format:
	@if $(CARGO) fmt --version >/dev/null 2>&1; then $(CARGO) fmt --all --check; \
	else echo "SKIP format: cargo fmt is not installed"; fi

lint:
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
		$(CARGO) clippy --workspace --all-targets --locked -- -D warnings; \
		$(CARGO) clippy --workspace $(addprefix --test ,$(live) $(live_in_vm) $(live_with_k8s)) --locked -- -D warnings; \
	else echo "SKIP lint: cargo clippy is not installed"; fi

unit:
	@$(CARGO) test --workspace --locked

doc:
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

test: check integration ## check, then real frontends and a real node (root, hugepages, QEMU, containerd 1.7 and 2.1)

# Each program runs in a machine of its own that boots for it. Not the two that flood the kernel's tables: that takes an hour there.
in_vm = $(CARGO) --config 'target."cfg(all())".runner="$(abspath $(target))/debug/ringway-in-vm"' test --workspace --locked
test-numa: build ## a machine with two NUMA nodes in QEMU: NICs by VFIO, pods on both nodes, VRFs and tunnels of Debian's kernel (root; slow, as it needs no KVM)
	@integration/setup/numa.sh
	@$(in_vm) --test fib -- --skip full_table --skip overrun
	@$(in_vm) --test vfio
	@$(in_vm) --test placement
	@$(in_vm) --test tunnels -- of_the_kernels

test-deep: setup ## AddressSanitizer, libFuzzer, loom and Miri, each where it applies (DEEP_SECONDS, DEEP_PARTS)
	@integration/setup/deep.sh

test-k8s: build ## a real Kubernetes of one node with DPDK pods, critest, containerd 2.2 to 2.4, balloons (root, hugepages; Go builds them: once, long)
	@integration/setup/kubernetes.sh
	@integration/setup/plugins.sh balloons
	@$(CARGO) test --workspace --locked $(addprefix --test ,$(live_with_k8s))
	@for cases in $(cases_with_k8s); do $(CARGO) test --workspace --locked --test plugin -- $$cases; done

fuzz: setup ## the property tests under libFuzzer for long (FUZZ_SECONDS=3600 FUZZ=vrouter-vhost)
	@integration/setup/fuzz.sh $(FUZZ_SECONDS) $(FUZZ)

# The same packages are selected as for `unit`, so that cargo builds every dependency once.
integration: build
	@integration/setup/qemu.sh
	@integration/setup/managers.sh
	@integration/setup/plugins.sh
	@integration/setup/frr.sh
	@$(CARGO) test --workspace --locked $(addprefix --test ,$(live))

bench: setup ## measure against testpmd and OVS-DPDK, write target/bench (root; BENCH_ARGS="--quick", --list, --help)
	@integration/setup/bench.sh
	@$(CARGO) build --release --locked -p vrouter-vrouterd -p vrouter-cli -p ringway-pktgen -p ringway-bench
	@$(target)/release/ringway-bench $(BENCH_ARGS)

# A report of its own beside the other: it needs Kubernetes, and no CPU without other work.
bench-cluster: setup ## the controller with 1,000 played nodes, the extender's answers: target/bench/report-controller.json (Go builds Kubernetes: once, long)
	@integration/setup/kubernetes.sh etcd kube-apiserver kube-scheduler kubectl
	@$(CARGO) build --release --locked -p node-tuner-controller -p ringway-agents
	@RINGWAY_BIN_DIR="$(abspath $(target))/release" $(CARGO) test --workspace --locked --test controller -- a_thousand_agents

bench-pods: build ## how long containerd waits for the plugin while 100 pods start at once beside traffic (PODS=1000); target/bench/report-pods.json
	@$(CARGO) build --release --locked -p nri-plugin -p runtime-shim -p vrouter-vrouterd -p vrouter-cli
	@RINGWAY_BIN_DIR="$(abspath $(target))/release" RINGWAY_STORM_REPORT="$(CURDIR)/target/bench/report-pods.json" \
		RINGWAY_STORM_PODS=$(PODS) RINGWAY_STORM_AT_ONCE=100 RINGWAY_STORM_TRAFFIC=1 \
		$(CARGO) test --workspace --locked --test plugin -- --exact storm

install: setup ## build for release and install below DESTDIR and PREFIX: binaries, units, samples, completions, man pages
	@$(CARGO) build --workspace --release --locked
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install.sh $(target)/release
	@echo "installed; samples and containerd drop-ins are in $(PREFIX)/share/ringway"

deb: setup ## build for release and make a Debian package of it in target/ (packaging/image makes an image from that)
	@$(CARGO) build --workspace --release --locked
	@packaging/deb.sh $(target)/release
