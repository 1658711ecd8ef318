# Every check, in the order in which it fails fastest. `make check` is exactly what CI runs.
.PHONY: check lint types contracts inspect tests

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
