# Every check, in the order in which it fails fastest. `make check` is exactly what CI runs.
.PHONY: check lint types contracts inspect tests fast nightly gpu upstream upstream-checkpoints upstream-jobs docs serve-docs

check: lint types contracts inspect tests

lint:
	ruff check .
	ruff format --check .

types:
	mypy

contracts:
	lint-imports

# Our own tool on our own snapshots/: what canonical LoRA does to every built-in architecture.
inspect:
	clora-inspect --check --no-progress

tests:
	pytest -n 2 --dist loadgroup

# While you work: every package, in a minute and a half on two cores.
fast:
	pytest -n 2 --dist loadgroup -m fast

# What takes too long for every change: more cases of what `make check` proves on some.
nightly:
	pytest -n 2 --dist loadgroup -m nightly
	CLORA_MONKEY_STEPS=5000 pytest -n 2 tests/tui/test_monkey.py

# The site, in build/site. A broken link, a missing page or any other warning fails it; the tests build it, too.
# (The variable keeps the theme from printing what its authors plan.)
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# The site on http://127.0.0.1:8000, built again at every change of a page.
serve-docs:
	NO_MKDOCS_2_WARNING=1 mkdocs serve

# Everything that needs CUDA and real Transformer Engine, on one GPU; prints what it proved. See docs/gpu.md.
# Warnings are shown and fail nothing: they are those of kernels and of torch, which differ from machine to machine.
gpu:
	pytest -m gpu -W default tests/gpu

# This checkout on source trees: plans, proofs and the library's tests. Writes docs/can-i-use.md.
#     make upstream MCORE=../Megatron-LM RELEASE="main of 2026-08-22"
#     make upstream MCORE=../Megatron-LM BRIDGE=../Megatron-Bridge BRIDGE_RELEASE=0.6.0
upstream:
	python tests/upstream/run.py "$(MCORE)" $(if $(RELEASE),--release "$(RELEASE)") \
		$(if $(BRIDGE),--bridge "$(BRIDGE)") $(if $(BRIDGE_RELEASE),--bridge-release "$(BRIDGE_RELEASE)")

# Adapter checkpoints both ways, with the Megatron-Bridge of a source tree (Python 3.12 from 0.4 on; it imports omegaconf).
#     make upstream-checkpoints MCORE=../Megatron-LM BRIDGE=../Megatron-Bridge RELEASE=0.6.0
upstream-checkpoints:
	CLORA_BRIDGE_RELEASE="$(RELEASE)" PYTHONPATH="$(MCORE):$(BRIDGE)/src:$(CURDIR):$$PYTHONPATH" \
		pytest tests/parallel/test_bridge_checkpoints.py -m "nightly or not nightly"

# Setup, checkpoints and exports of jobs that use clora.bridge, likewise (it imports transformers and safetensors, too).
#     make upstream-jobs MCORE=../Megatron-LM BRIDGE=../Megatron-Bridge RELEASE=0.6.0
upstream-jobs:
	CLORA_BRIDGE_RELEASE="$(RELEASE)" PYTHONPATH="$(MCORE):$(BRIDGE)/src:$(CURDIR):$$PYTHONPATH" \
		pytest tests/parallel/test_bridge_jobs.py -m "nightly or not nightly"
