# make help lists the commands. Python 3.11 or newer and make are enough for demo and test; check and
# docs also need npm, conformance-sources the frameworks (it fetches them).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Tests start hundreds of servers, each of which would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
FRAMEWORKS_VENV := .venv-frameworks
BENCH_VENV := .venv-bench
FLOWER_VENV := .venv-flower
PY := $(VENV)/bin/python
FRAMEWORKS_PY := $(FRAMEWORKS_VENV)/bin/python
BENCH_PY := $(BENCH_VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
FRAMEWORKS_PIP := $(FRAMEWORKS_PY) -m pip --disable-pip-version-check install --quiet
BENCH_PIP := $(BENCH_PY) -m pip --disable-pip-version-check install --quiet
# Three processes on two cores, because many tests wait; each takes over tests of the others when it is done.
PYTEST := $(PY) -m pytest --numprocesses=3 --dist=worksteal
ARGS ?=

# The first interpreter that starts and is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

PROTOS := $(wildcard proto/optserve/v1/*.proto)
SERVICES := $(wildcard proto/optserve/v1/*_service.proto)
PROTOC = PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m grpc_tools.protoc --proto_path=proto
STUBS := clients/python/src
CONFORMANCE_PROTOS := $(wildcard proto/optserve/conformance/v1/*.proto)
CONFORMANCE_STUBS := clients/python/conformance/stubs
FRESH := build/generated
BUF := proto/node_modules/.bin/buf
TYPESCRIPT := clients/typescript

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- The demo and the tests ------------------------------------------------

.PHONY: demo
demo: $(VENV)/.demo ## Train iris and digits remotely and draw the curves (ARGS="--help" for options)
	PYTHONPATH=examples $(PY) -m demo $(ARGS)

.PHONY: example-workers
example-workers: $(VENV)/.demo ## Train with four workers in every mode of coordination and draw the losses (ARGS="--mode sync async")
	PYTHONPATH=examples $(PY) -m workers $(ARGS)

.PHONY: test
test: $(VENV)/.test ## Run every test but the slow ones (ARGS="-k adam")
	$(PYTEST) -m "not slow" $(ARGS)

.PHONY: test-all
test-all: $(VENV)/.test ## Run every test, as CI does
	$(PYTEST) $(ARGS)

.PHONY: test-dashboard
test-dashboard: $(VENV)/.browser ## Look at the dashboard in headless Chromium (pictures: build/dashboard)
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	    { echo "the dashboard's test needs Chromium or Google Chrome; none was found" >&2; exit 1; }
	$(PY) -m pytest tests/browser/dashboard.py

.PHONY: crash
crash: $(VENV)/.test ## Kill a server 200 times and look for lost or doubled steps (ARGS="--kills 1000")
	$(PY) -m chaos.crash $(ARGS)

.PHONY: damage
damage: $(VENV)/.test ## Damage a data directory 1,000 times and look whether check finds it (ARGS="--sessions 5")
	$(PY) -m chaos.damage $(ARGS)

.PHONY: crash-workers
crash-workers: $(VENV)/.test ## Kill the server of 64 workers and a quarter of them for 5 minutes (ARGS="--seconds 60 --workers 16")
	$(PY) -m chaos.crash_workers $(ARGS)

.PHONY: crash-watch
crash-watch: $(VENV)/.test ## Kill a server and the recording of its steps 100 times, and look for lost or doubled points (ARGS="--kills 20")
	$(PY) -m chaos.crash_watch $(ARGS)

.PHONY: federated
federated: $(VENV)/.test ## Train 1,000 simulated clients, 30 % of which drop out of each round (ARGS="--rounds 2")
	$(PY) -m chaos.federated $(ARGS)

.PHONY: test-client-typescript
test-client-typescript: $(VENV)/.test $(TYPESCRIPT)/build/.made ## Build, lint and test the TypeScript client (Node.js 20, npm)
	npm run --silent --prefix $(TYPESCRIPT) lint
	npm test --silent --prefix $(TYPESCRIPT)
	npm run --silent --prefix $(TYPESCRIPT) docs

# What builds the clients' drivers.
DRIVERS := driver-go driver-rust driver-java driver-cpp $(TYPESCRIPT)/build/.made

.PHONY: conformance
conformance: $(VENV)/.test $(DRIVERS) ## Print how far oracle, executors, server and clients are from the corpus
	$(PY) -m tests.conformance $(ARGS)

.PHONY: conformance-sources
conformance-sources: $(FRAMEWORKS_VENV)/.made $(FLOWER_VENV)/.made ## Run the frameworks and rewrite the corpus (ARGS=--check compares only)
	$(FRAMEWORKS_PY) -m tests.conformance.generate $(or $(ARGS),--write)
	$(FRAMEWORKS_PY) -m tests.service.coordination.flower_rounds $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.fuzz ## Send a server 300,000 hostile messages, and fuzz parsers with coverage (ARGS="--seed 2 --runs 1000")
	$(PY) -m chaos.fuzz $(ARGS)

.PHONY: soak
soak: $(VENV)/.test ## Train with 64 clients for 5 minutes over a network that fails (ARGS="--seconds 60")
	$(PY) -m chaos.soak $(ARGS)

.PHONY: tutorial-frameworks
tutorial-frameworks: $(FRAMEWORKS_VENV)/.made ## Run the tutorials that need PyTorch, optax or Keras
	$(FRAMEWORKS_PY) -m tests.support.pages docs/tutorials/pytorch.md docs/tutorials/optax.md
	KERAS_BACKEND=jax $(FRAMEWORKS_PY) -m tests.support.pages docs/tutorials/keras.md

.PHONY: test-install
test-install: ## Install server and client with pip in a new environment, and run the README's program
	rm -rf build/lib clients/python/build # of which setuptools would take files that are gone
	$(PYTHON) -m venv --clear build/install
	build/install/bin/python -m pip --disable-pip-version-check install --quiet ./clients/python '.[numba,uvloop]'
	build/install/bin/python -m tests.support.pages README.md

.PHONY: test-adapters
test-adapters: $(FRAMEWORKS_VENV)/.made ## Test the adapters for frameworks beside the frameworks' own optimizers (ARGS="-k adam")
	KERAS_BACKEND=torch $(FRAMEWORKS_PY) -m tools.docstrings optserve._adapters optserve.torch optserve.optax \
	    optserve.keras optserve.recording
	$(FRAMEWORKS_PY) -m pytest --numprocesses=2 --dist=worksteal -m "not slow" tests/adapters $(ARGS)
	for backend in jax torch tensorflow; do \
	    KERAS_BACKEND=$$backend $(FRAMEWORKS_PY) -m pytest --numprocesses=2 --dist=worksteal -m "not slow" \
	        tests/adapters/keras_backends $(ARGS) || exit 1; done

.PHONY: workers-frameworks
workers-frameworks: $(FRAMEWORKS_VENV)/.made ## Train with torch DDP and with four workers of a session, and compare
	$(FRAMEWORKS_PY) -m tests.integration.ddp

.PHONY: snapshot-frameworks
snapshot-frameworks: $(FRAMEWORKS_VENV)/.made ## Open a snapshot in PyTorch, JAX and NumPy
	$(FRAMEWORKS_PY) -m tests.recovery.frameworks

.PHONY: bench
bench: $(BENCH_VENV)/.made ## Measure everything beside its peers (ARGS="--only kernels,latency --sizes 10000")
	$(BENCH_PY) -m benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: $(BENCH_VENV)/.made ## Measure in two minutes, without the peers of large installations
	$(BENCH_PY) -m benchmarks --quick $(ARGS)

# A driver that cannot be built is an error line among the figures.
.PHONY: bench-clients
bench-clients: $(VENV)/.test ## Measure the clients in every language beside bare exchanges (ARGS="--sizes 10000")
	for driver in $(DRIVERS); do $(MAKE) --no-print-directory $$driver || true; done
	$(PY) -m benchmarks --only languages --out build/bench-clients.json $(ARGS)

# ---- The Go client ---------------------------------------------------------

GO_DRIVER := build/clients/go/conformance
GO_TOOLS := build/clients/go/tools
GO_FRESH := build/clients/go/generated
GO_CLIENT_FILES = clients/go/service_config.json:proto/service_config.json \
    clients/go/LICENSE:LICENSE clients/go/examples/quickstart/iris.csv:data/iris.csv

.PHONY: test-client-go
test-client-go: $(VENV)/.test $(BUF) $(GO_TOOLS)/.installed driver-go ## Check, build and test the Go client
	rm -rf $(GO_FRESH) && $(call go_generated,$(GO_FRESH))
	diff -r $(GO_FRESH)/gen clients/go/gen
	for pair in $(GO_CLIENT_FILES); do cmp "$${pair%%:*}" "$${pair##*:}" || exit 1; done
	test -z "$$(gofmt -l clients/go | tee /dev/stderr)"
	cd clients/go && go mod tidy -diff && go vet ./...
	cd clients/go && $(CURDIR)/$(GO_TOOLS)/staticcheck . ./conformance ./examples/...
	cd clients/go && go test -count=1 -race -timeout 15m ./... && go test -count=1 -run Memory .

.PHONY: driver-go
driver-go: go-found
	cd clients/go && go build -o $(CURDIR)/$(GO_DRIVER) ./conformance

.PHONY: generate-client-go
generate-client-go: $(BUF) $(GO_TOOLS)/.installed ## Write the generated code and the copied files of the Go client
	rm -rf clients/go/gen && $(call go_generated,clients/go)
	for pair in $(GO_CLIENT_FILES); do cp "$${pair##*:}" "$${pair%%:*}" || exit 1; done

go_generated = PATH="$(CURDIR)/$(GO_TOOLS):$$PATH" $(BUF) generate --template clients/go/buf.gen.yaml --output $(1)

$(GO_TOOLS)/.installed: clients/go/tools/go.sum | go-found
	cd clients/go/tools && GOBIN=$(CURDIR)/$(GO_TOOLS) go install tool
	@touch $@

.PHONY: go-found
go-found:
	@go version >/dev/null 2>&1 || { echo "the Go client needs Go 1.26 or newer; none was found" >&2; exit 1; }

# ---- The Rust client -------------------------------------------------------

RUST := clients/rust
RUST_BUILD := build/clients/rust
RUST_FRESH := $(RUST_BUILD)/generated
CARGO = cd $(RUST) && CARGO_TARGET_DIR=$(CURDIR)/$(RUST_BUILD) cargo
RUST_FILES = $(RUST)/LICENSE:LICENSE $(RUST)/examples/iris.csv:data/iris.csv

.PHONY: test-client-rust
test-client-rust: $(VENV)/.check rust-found ## Check, build and test the Rust client
	$(CARGO) fmt --all --check
	rm -rf $(RUST_FRESH) && $(call rust_generated,$(RUST_FRESH))
	for part in src conformance; do diff -r $(RUST_FRESH)/$$part/generated $(RUST)/$$part/generated || exit 1; done
	for pair in $(RUST_FILES); do cmp "$${pair%%:*}" "$${pair##*:}" || exit 1; done
	$(CARGO) clippy --quiet --workspace --all-targets --all-features -- -D warnings
	$(CARGO) test --quiet --all-features
	RUSTDOCFLAGS="-D warnings" && export RUSTDOCFLAGS && $(CARGO) doc --quiet --no-deps --all-features

.PHONY: driver-rust
driver-rust: rust-found
	$(CARGO) build --quiet --all-features --example conformance

.PHONY: generate-client-rust
generate-client-rust: $(VENV)/.check rust-found ## Write the generated code and the copied files of the Rust client
	rm -rf $(RUST)/src/generated $(RUST)/conformance/generated && $(call rust_generated,$(RUST))
	for pair in $(RUST_FILES); do cp "$${pair##*:}" "$${pair%%:*}" || exit 1; done

# protoc comes with grpcio-tools, so that neither users nor this need one.
define rust_generated
mkdir -p $(RUST_BUILD) && $(PROTOC) --include_imports --include_source_info \
    --descriptor_set_out=$(RUST_BUILD)/contract.binpb proto/google/rpc/*.proto $(PROTOS) $(CONFORMANCE_PROTOS) && \
    ($(CARGO) run --quiet --package optserve-generate $(CURDIR)/$(RUST_BUILD)/contract.binpb $(CURDIR)/$(1))
endef

.PHONY: rust-found
rust-found:
	@cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 && cc --version >/dev/null 2>&1 || \
	    { echo "the Rust client needs Rust 1.88 or newer with clippy and rustfmt, and a C compiler" >&2; exit 1; }
# ---- The Java client -------------------------------------------------------

MAVEN := mvn --batch-mode --quiet --no-transfer-progress --file clients/java

# Formatter, lints, tests, jars and API documentation are in one build.
.PHONY: test-client-java
test-client-java: $(VENV)/.test java-found ## Check, build, test and document the Java client (JDK 17, Maven)
	$(MAVEN) verify

.PHONY: driver-java
driver-java: java-found
	$(MAVEN) process-test-classes

.PHONY: java-found
java-found:
	@javac --version >/dev/null 2>&1 && mvn --version >/dev/null 2>&1 || \
	    { echo "the Java client needs a JDK, 17 or newer, and Maven 3.8 or newer" >&2; exit 1; }
# ---- The C++ client --------------------------------------------------------

CPP := clients/cpp
CPP_BUILD := build/clients/cpp
CPP_FILES = $(wildcard $(CPP)/include/optserve/*.h $(CPP)/*/*.h $(CPP)/*/*.cc)

.PHONY: test-client-cpp
test-client-cpp: $(VENV)/.test cpp-found cpp-checks-found ## Check, build and test the C++ client (CMake, g++, libgrpc++-dev and others)
	clang-format --dry-run --Werror $(CPP_FILES)
	$(call cpp_build,all)
	clang-tidy --quiet --config-file=$(CPP)/.clang-tidy --extra-arg=-Wno-unknown-warning-option -p $(CPP_BUILD) \
	    $(CPP_BUILD)/CMakeFiles/optserve.dir/Unity/unity_0_cxx.cxx
	$(CPP)/test/installed.sh $(CPP_BUILD)
	ctest --test-dir $(CPP_BUILD) --output-on-failure
	(cat $(CPP)/Doxyfile; echo "OUTPUT_DIRECTORY = $(CPP_BUILD)/docs") | doxygen -

.PHONY: driver-cpp
driver-cpp: cpp-found
	$(call cpp_build,optserve_conformance)

define cpp_build
	cmake -S $(CPP) -B $(CPP_BUILD) -G Ninja -DOPTSERVE_BUILD_TESTS=ON > $(CPP_BUILD).log || { cat $(CPP_BUILD).log; exit 1; }
	cmake --build $(CPP_BUILD) --target $(1)
endef

.PHONY: cpp-found cpp-checks-found
cpp-found:
	$(call find_tools,cmake ninja g++ protoc grpc_cpp_plugin pkg-config)
	@pkg-config --exists grpc++ protobuf gtest || { echo "the C++ client needs libgrpc++-dev, libprotobuf-dev and libgtest-dev" >&2; exit 1; }
	@mkdir -p $(CPP_BUILD)

cpp-checks-found:
	$(call find_tools,clang-format clang-tidy doxygen)

find_tools = @for tool in $(1); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
    test -z "$$missing" || { echo "the C++ client needs what was not found:$$missing" >&2; exit 1; }

# ---- Documentation ---------------------------------------------------------

MERMAID := tools/docs/node_modules/.installed

.PHONY: docs
docs: $(VENV)/.docs $(MERMAID) ## Build the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

$(MERMAID): tools/docs/package-lock.json
	npm ci --prefix tools/docs --ignore-scripts --no-fund --no-audit
	@touch $@

# ---- The image -------------------------------------------------------------

.PHONY: image
image: ## Build the image with docker, podman or buildah (BASE_IMAGE=... EXTRAS=... IMAGE=...)
	deploy/build.sh $(ARGS)

.PHONY: image-test
image-test: $(VENV)/.test ## Run the image, train against it, kill it, go on (after make image)
	$(PY) -m pytest tests/image/smoke.py $(ARGS)

.PHONY: image-base
image-base: ## Make a base image of Debian's packages, where no registry of images is reached
	deploy/debian_base.sh $(ARGS)

# ---- What operators install ------------------------------------------------

KUSTOMIZE := build/tools/kustomize

.PHONY: check-deploy
check-deploy: $(VENV)/.check $(KUSTOMIZE) ## Check alert rules, systemd unit and manifests (promtool, systemd-analyze, Go)
	BIN=$(VENV)/bin KUSTOMIZE=$(KUSTOMIZE) deploy/check.sh

$(KUSTOMIZE): | go-found
	GOBIN=$(CURDIR)/$(dir $@) go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1

# ---- Static checks ---------------------------------------------------------

.PHONY: check lint docstrings types layers prose contract workflows fresh
check: lint docstrings types layers prose contract workflows fresh ## Run every static check

lint: $(VENV)/.check
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

docstrings: $(VENV)/.check
	$(PY) -m tools.docstrings optserve optserve_server

# With the browser's package, whose types decide what the dashboard's test may write.
types: $(VENV)/.check $(VENV)/.browser
	$(PY) -m mypy

layers: $(VENV)/.check
	$(VENV)/bin/lint-imports

prose: $(VENV)/.check ## List words of prose that have a better one, and functions named by participles
	$(PY) -m tools.prose $(ARGS)

contract: $(BUF)
	$(BUF) lint proto
	$(BUF) format proto --diff --exit-code
	$(BUF) breaking proto --against proto/image.binpb

# The schemas come with check-jsonschema; nothing is fetched.
workflows: $(VENV)/.check
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml

fresh: $(VENV)/.check
	rm -rf $(FRESH) && mkdir -p $(FRESH)
	$(call generated,$(FRESH))
	diff -r --exclude=__init__.py --exclude=__pycache__ $(FRESH)/optserve/v1 $(STUBS)/optserve/v1
	diff -r --exclude=__init__.py --exclude=base.py --exclude=__pycache__ $(FRESH)/optserve/specs $(STUBS)/optserve/specs
	for file in $(FRESH)/optserve/*.py $(FRESH)/optserve/*.json; do diff "$$file" $(STUBS)/optserve || exit 1; done
	$(call conformance_generated,$(FRESH)/stubs)
	diff -r --exclude=__init__.py --exclude=__pycache__ $(FRESH)/stubs $(CONFORMANCE_STUBS)

.PHONY: format
format: $(VENV)/.check $(BUF) ## Format Python and proto files and mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(BUF) format proto --write

# ---- Generated files -------------------------------------------------------

# Messages and stubs by protoc, then the client's specification classes, which need the server's
# declarations beside the contract.
define generated
	$(PROTOC) --python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS)
	$(PROTOC) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(SERVICES)
	$(PY) clients/python/tools/generate_specs.py proto $(1)/optserve
	cp proto/service_config.json $(1)/optserve
	grep -l '^Written by tools/generate_specs.py' $(1)/optserve/*.py $(1)/optserve/specs/*.py > $(1)/specs.txt
	xargs $(PY) -m ruff check --quiet --no-cache --select I,RUF022 --fix < $(1)/specs.txt
	xargs $(PY) -m ruff format --quiet < $(1)/specs.txt
	rm $(1)/specs.txt
endef

# The corpus' messages, for tests and drivers; no part of a distribution.
define conformance_generated
	mkdir -p $(1)
	$(PROTOC) --python_out=$(1) --mypy_out=quiet:$(1) $(CONFORMANCE_PROTOS)
	mv $(1)/optserve/conformance/v1/* $(1)
	rm -r $(1)/optserve
endef

.PHONY: generate
generate: $(VENV)/.check ## Write everything anew that is made from proto/
	$(call generated,$(STUBS))
	$(call conformance_generated,$(CONFORMANCE_STUBS))

.PHONY: baseline
baseline: $(BUF) ## Accept proto/ as what later changes may not break
	$(BUF) build proto --exclude-source-info --output proto/image.binpb

# ---- Environments: a stamp each, as old as the files that it was made from --

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "optserve needs Python 3.11 or newer; none was found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

PROJECTS := pyproject.toml clients/python/pyproject.toml clients/python/VERSION

$(VENV)/.demo: $(VENV)/.made requirements/demo.txt $(PROJECTS)
	$(PIP) -r requirements/demo.txt
	$(PIP) --no-deps --no-build-isolation --editable . --editable clients/python
	@touch $@

$(VENV)/.test: $(VENV)/.demo requirements/test.txt
	$(PIP) -r requirements/test.txt
	@touch $@

$(VENV)/.browser: $(VENV)/.test requirements/browser.txt
	$(PIP) -r requirements/browser.txt
	@touch $@

# atheris has wheels for Linux on x86-64, for some versions of Python.
$(VENV)/.fuzz: $(VENV)/.test requirements/fuzz.txt
	$(PIP) -r requirements/fuzz.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.demo requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	@touch $@

$(VENV)/.check: $(VENV)/.test requirements/check.txt
	$(PIP) -r requirements/check.txt
	@touch $@

$(FRAMEWORKS_VENV)/.made: requirements/frameworks.txt $(PROJECTS)
	@test -n "$(PYTHON)" || { echo "optserve needs Python 3.11 or newer; none was found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(FRAMEWORKS_VENV)
	$(FRAMEWORKS_PIP) -r requirements/frameworks.txt
	$(FRAMEWORKS_PIP) --no-deps --no-build-isolation --editable . --editable clients/python
	@touch $@

$(FLOWER_VENV)/.made: requirements/flower.txt
	@test -n "$(PYTHON)" || { echo "optserve needs Python 3.11 or newer; none was found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(FLOWER_VENV)
	$(FLOWER_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/flower.txt
	@touch $@

$(BENCH_VENV)/.made: requirements/bench.txt $(PROJECTS)
	@test -n "$(PYTHON)" || { echo "optserve needs Python 3.11 or newer; none was found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_PIP) -r requirements/bench.txt
	$(BENCH_PIP) --no-deps --no-build-isolation --editable . --editable clients/python
	@touch $@

.PHONY: requirements
requirements: $(VENV)/.check ## Compile requirements/*.txt from pyproject.toml (ARGS=--upgrade for newer versions)
	requirements/compile.sh $(ARGS)

$(BUF): proto/package-lock.json
	npm ci --prefix proto --ignore-scripts --no-fund --no-audit
	@touch $@

$(TYPESCRIPT)/node_modules/.made: $(TYPESCRIPT)/package-lock.json
	@node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' && npm --version >/dev/null || \
	    { echo "the TypeScript client needs Node.js 20 or newer and npm" >&2; exit 1; }
	npm ci --prefix $(TYPESCRIPT) --ignore-scripts --no-fund --no-audit
	@touch $@

# The generated code is a part of the build, so it is never out of date.
$(TYPESCRIPT)/build/.made: $(TYPESCRIPT)/node_modules/.made $(wildcard $(TYPESCRIPT)/*.json $(TYPESCRIPT)/*/*.ts) \
    proto/service_config.json $(PROTOS) $(CONFORMANCE_PROTOS)
	npm run --silent --prefix $(TYPESCRIPT) generate
	rm -rf $(TYPESCRIPT)/build
	npm run --silent --prefix $(TYPESCRIPT) compile
	@touch $@
