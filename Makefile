# Every check, in the order in which it fails fastest. `make check` is exactly what CI runs.
.PHONY: check lint types contracts tests

check: lint types contracts tests

lint:
	ruff check .
	ruff format --check .

types:
	mypy

contracts:
	lint-imports

tests:
	pytest -n 2 --dist loadgroup
