# pycrio: `make help` lists the targets. PYTHON is the interpreter of the project's environment.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
CC ?= gcc
CTEST_CC ?= clang
SAN = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
CWARN = -std=gnu11 -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wundef -Werror
CTEST_FLAGS = $(CWARN) $(SAN) -g -O1 -D_GNU_SOURCE=1 -DPC_DEBUG=1 -Icsrc
FUZZ_SECONDS ?= 30
CTESTS := $(patsubst tests/c/%.c,build/ctest/%,$(wildcard tests/c/test_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
# What a test or fuzz target needs besides its own file stands in its head: // SRC: files   // LIBS: -lx
srcs = $(wildcard $(shell sed -n 's,^// SRC:,,p' $(1)))
libs = $(shell sed -n 's,^// LIBS:,,p' $(1))

.DEFAULT_GOAL := help
.PHONY: help build debug proto lint format types test ctest race fuzz cross system crash-points share-soak kill-points soak bench bench-peers demo dist dist-check vm house clean check

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## compile the extensions and programs in place
	$(PYTHON) setup.py -q build_ext --inplace

debug: ## the same with assertions, AddressSanitizer and UBSan
	PYCRIO_DEBUG=asan $(PYTHON) setup.py -q build_ext --inplace --force

proto: ## generate the _pb packages from protos/
	$(PYTHON) protos/generate.py

lint: ## ruff, clang-format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	@if command -v clang-format >/dev/null; then clang-format --dry-run --Werror $$(git ls-files 'csrc/*.[ch]' 'tests/c/*.c' 'tests/fuzz/*.[ch]'); fi

format: ## rewrite in house style
	$(PYTHON) -m ruff format .
	clang-format -i $$(git ls-files 'csrc/*.[ch]' 'tests/c/*.c' 'tests/fuzz/*.[ch]')

types: ## mypy strict
	$(PYTHON) -m mypy

test: ## unit tests, house rules
	$(PYTHON) -m pytest tests --ignore=tests/system -q

system: ## tests on real runtimes, registries, plugins and peers (root)
	$(PYTHON) -m pytest tests/system -q

kill-points: ## kill -9 of the daemon before each system call of each request, half an hour (root)
	$(PYTHON) -m tests.system.kill_points
	$(PYTHON) -m tests.system.kill_points --children --every 15
	$(PYTHON) -m tests.system.kill_points --runtime crun --every 15

crash-points: ## kill -9 before each system call that changes the store, some minutes (root)
	$(PYTHON) -m tests.system.crash_points

SHARE_SECONDS ?= 180
share-soak: ## podman, skopeo, buildah and pycrio in one store for SHARE_SECONDS seconds (root)
	PYCRIO_LONG=$(SHARE_SECONDS) $(PYTHON) -m pytest tests/system/test_store_interop.py -k everybody -q -s

build/ctest/%: tests/c/%.c $(wildcard csrc/*/*.c csrc/*/*.h tests/c/*.h)
	@mkdir -p $(@D)
	$(CTEST_CC) $(CTEST_FLAGS) $< $(call srcs,$<) -o $@ -pthread $(call libs,$<)

# run the programs of the first argument, by what the second says
taps = for t in $(1); do echo "\# $$t"; $(2) ./$$t > $$t.tap 2>$$t.err || { cat $$t.tap $$t.err; echo "FAILED: $$t"; exit 1; }; \
  if grep -q '^not ok' $$t.tap; then cat $$t.tap $$t.err; exit 1; fi; grep -c '^ok' $$t.tap; done

ctest: $(CTESTS) ## C unit tests under AddressSanitizer and UBSan
	@$(call taps,$(CTESTS))

build/race/%: tests/c/%.c $(wildcard csrc/*/*.c csrc/*/*.h tests/c/*.h)
	@mkdir -p $(@D)
	clang $(CWARN) -fsanitize=thread -g -O1 -D_GNU_SOURCE=1 -DPC_DEBUG=1 -Icsrc $< $(call srcs,$<) -o $@ -pthread $(call libs,$<)

# ThreadSanitizer wants its addresses where this kernel may put others
race: build/race/test_untar_run build/race/test_untar_filler ## C tests with threads under ThreadSanitizer
	@$(call taps,$^,setarch -R)

build/fuzz/%: tests/fuzz/%.c $(wildcard csrc/*/*.c csrc/*/*.h tests/fuzz/*.h)
	@mkdir -p $(@D)
	clang -fsanitize=fuzzer $(CTEST_FLAGS) -Wno-unused-function $< $(call srcs,$<) -o $@ -pthread $(call libs,$<)

fuzz: $(FUZZERS) ## every fuzz target for FUZZ_SECONDS seconds
	@for f in $(FUZZERS); do mkdir -p $$f.corpus; n=$${f##*/fuzz_}; c=tests/fuzz/corpus/$$n; d=tests/fuzz/dict/$$n.dict; \
	  ./$$f -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -rss_limit_mb=2048 $$([ -f $$d ] && echo -dict=$$d) \
	  $$f.corpus $$([ -d $$c ] && echo $$c) || exit 1; done

CROSS ?= aarch64-linux-gnu
cross: ## compile the core for another architecture, CROSS=aarch64-linux-gnu (Debian: gcc-aarch64-linux-gnu)
	@mkdir -p build/cross/include && cp -r /usr/include/isa-l* /usr/include/zstd*.h /usr/include/lzma* /usr/include/bzlib.h \
	  /usr/include/openssl /usr/include/$$($(CC) -print-multiarch)/openssl build/cross/include/
	@for f in csrc/*/*.c; do case $$f in csrc/pause/*|csrc/exec/*) free=-ffreestanding;; *) free=;; esac; \
	  $(CROSS)-gcc $(CWARN) -O2 -D_GNU_SOURCE=1 -Icsrc -isystem build/cross/include $$free -c $$f \
	  -o build/cross/$$(echo $$f | tr / -).o || exit 1; done; echo "$$(ls build/cross/*.o | wc -l) objects for $(CROSS)"

soak: ## PODS=1000 pods' lives on a daemon that is killed now and then; what stays is told (root; SEED=n again the same)
	$(PYTHON) -m tests.soak

bench: ## benchmarks (pytest-benchmark)
	$(PYTHON) -m pytest bench/bench_*.py --benchmark-only -q
	$(PYTHON) -m bench.bench_pull_again

bench-peers: ## side by side with containerd (same runtime, same plugins) and podman (pulls) on scratch roots
	$(PYTHON) bench/peers.py
	$(PYTHON) bench/bench_pull_podman.py

demo: build ## the main job, shown step by step on scratch directories (root)
	$(PYTHON) tests/system/demo.py

dist: ## sdist, and the manylinux wheel from it with all libraries inside, in build/dist
	rm -rf build/dist && $(PYTHON) -m build --no-isolation --outdir build/dist . >/dev/null
	PATH="$(abspath $(dir $(PYTHON))):$$PATH" $(PYTHON) -m auditwheel repair -w build/dist build/dist/*-linux_*.whl 2>build/dist/auditwheel.log \
	  || { cat build/dist/auditwheel.log; exit 1; }
	rm build/dist/*-linux_*.whl build/dist/auditwheel.log

dist-check: dist ## the same, and whether that wheel is complete and works
	$(PYTHON) tests/dist_check.py build/dist

vm: ## the same on a production-like node in qemu: systemd, cgroup v2, AppArmor (root, debootstrap, qemu-system-x86, qemu-utils)
	PYTHON=$(PYTHON) tests/vm/vm run

house: ## what exceeds the house's signal sizes, largest first
	@$(PYTHON) tests/test_house.py

check: build lint types ctest race test dist-check system ## everything that CI runs

clean: ## remove what was built
	rm -rf build dist *.egg-info pycrio/_native/*.so pycrio/_native/bin
