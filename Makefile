# Set-up is part of every target: a fresh clone needs nothing but make, Python 3.11+ and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
SECAGG_PEERS := .venv-bench-secagg
SECAGG_PEERS_STAMP := $(SECAGG_PEERS)/.installed
PRIMIA_DATA ?= ../shared/data
export PRIMIA_DATA

.PHONY: install bench bench-dp bench-secagg bench-noise bench-rounds bench-inference inference-films inference-truncations demo test faultsim test-slow test-mutations test-faults kill-loop lint types format protos wheelhouse bundle compose-demo compose-chaos infer-compose-demo compose-test compose-down clean

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/primia demo

test: $(STAMP)
	$(BIN)/python -m pytest

# A cohort of a thousand in one process: minutes.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The system itself, simulated: 20,000 rounds of seeded faults. SEED='…' lives through one history again, step
# by step; FAULTSIM_ARGS goes through, as in: make faultsim FAULTSIM_ARGS="--rounds 2000 --first b"
faultsim: $(STAMP)
	$(BIN)/python -m tests.faultsim.run $(if $(SEED),--seed '$(SEED)') $(FAULTSIM_ARGS)

# Breaks secure aggregation on purpose in some fifty ways; fails if the suite misses more than 5 %.
test-mutations: $(STAMP)
	$(BIN)/python -m tests.mutations.run

# Real daemons killed, stopped and cut off; minutes. What needs root (mount, setpriv) or strace (apt
# install strace) skips by name where it cannot run.
test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults tests/faults $(FAULTS_ARGS)

# A hundred `kill -9` over one study; KILL_LOOP_ARGS="--seed 7 --kills 20" goes through.
kill-loop: $(STAMP)
	$(BIN)/python -m tests.faults.kill_loop $(KILL_LOOP_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP)
	$(BIN)/python -m primia.wire.generate

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "primia needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Peers live in an environment of their own: what they need must not decide what primia gets.
# BENCH_ARGS goes through, as in: make bench-dp BENCH_ARGS="--cases cnn-28-b128 --budget 5"
bench: bench-dp bench-secagg bench-noise bench-rounds

bench-dp: $(BENCH_STAMP)
	$(BENCH_VENV)/bin/python -m benchmarks.dp.run $(BENCH_ARGS)

$(BENCH_STAMP): pyproject.toml constraints.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BENCH_VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

bench-noise: $(STAMP)
	$(BIN)/python -m benchmarks.distributed_noise.run $(BENCH_ARGS)

bench-rounds: $(STAMP)
	$(BIN)/python -m benchmarks.round_overhead $(BENCH_ARGS)

inference-truncations: $(STAMP)
	$(BIN)/python -m benchmarks.inference.truncations $(BENCH_ARGS)

inference-films: $(STAMP)
	$(BIN)/python -m benchmarks.inference.films $(BENCH_ARGS)

bench-secagg: $(STAMP) $(SECAGG_PEERS_STAMP)
	$(BIN)/python -m benchmarks.secagg.run $(BENCH_ARGS)

# These peers want other versions of what primia needs, so primia is not beside them.
$(SECAGG_PEERS_STAMP): benchmarks/secagg/peers.txt
	test -x $(SECAGG_PEERS)/bin/python || $(PYTHON) -m venv $(SECAGG_PEERS)
	$(SECAGG_PEERS)/bin/python -m pip install --quiet -r $< && touch $@ || echo "going on without peers"

# Neither peer can stand beside primia (older numpy, a broken list of dependencies), nor beside the other.
bench-inference: $(STAMP) .venv-bench-crypten/.installed .venv-bench-spu/.installed
	$(BIN)/python -m benchmarks.inference.run $(BENCH_ARGS)

.venv-bench-crypten/.installed:
	$(PYTHON) -m venv .venv-bench-crypten
	.venv-bench-crypten/bin/python -m pip install --quiet torch==2.13.0 torchvision==0.28.0 numpy omegaconf onnx pyyaml pandas scipy future scikit-learn \
	    && .venv-bench-crypten/bin/python -m pip install --quiet --no-deps crypten==0.4.1 && touch $@ || echo "going on without CrypTen"

# SPU has wheels for Python 3.10 and 3.11.
.venv-bench-spu/.installed:
	$(PYTHON) -m venv .venv-bench-spu
	.venv-bench-spu/bin/python -m pip install --quiet spu==0.9.5 && touch $@ || echo "going on without SPU"

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(SECAGG_PEERS) build dist *.egg-info

# What the images install, so that building them needs no network. Which torch comes (CPU or CUDA)
# is decided by pip's own settings, as in the installation above. With the date fixed, unchanged
# sources make the same wheel, and the images' layers are reused.
wheelhouse: wheelhouse/.complete
	rm -rf build wheelhouse/primia-*.whl
	SOURCE_DATE_EPOCH=1735689600 $(BIN)/python -m pip wheel --quiet --no-deps -w wheelhouse .
	rm -rf build

wheelhouse/.complete: $(STAMP)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "the images run Python 3.11 and need its wheels: make PYTHON=python3.11 VENV=.venv-3.11 wheelhouse")'
	rm -rf build wheelhouse
	$(BIN)/python -m pip wheel --quiet -c constraints.txt -w wheelhouse torch torchvision '.[dicom]'
	touch $@

# For machines without a network: dist/primia.tar, the same bytes from the same wheels.
bundle: wheelhouse
	mkdir -p dist && rm -f dist/primia.tar
	$(BIN)/primia bundle make dist/primia.tar --wheels wheelhouse --extra dicom

compose-demo: wheelhouse
	$(PYTHON) docker/simulation/demo.py

# Containers are killed, frozen and cut off while the study runs.
compose-chaos: wheelhouse
	$(PYTHON) docker/simulation/chaos.py

# Encrypted prediction: model owner, dealer and a hospital; answers are compared with plain ones.
infer-compose-demo: wheelhouse
	PYTHONPATH=. $(BIN)/python docker/simulation/prediction.py

compose-test: $(STAMP)
	$(BIN)/python -m pytest -m docker

compose-down:
	$(PYTHON) docker/simulation/demo.py down
	$(PYTHON) docker/simulation/chaos.py down
	$(PYTHON) docker/simulation/prediction.py down
