# The inner loop. Run in the project's virtual environment: pip install -c constraints.txt -e '.[dev]'
.PHONY: check quick test docs bench

check:  ## Lint, format, types, floors
	ruff check .
	ruff format --check .
	mypy
	lint-imports

quick:  ## Small tests of every folder, on two cores
	python -m pytest -q -m quick -n 2

test:  ## Every test but the long ones (--slow), on two cores
	python -m pytest -q -n 2

docs:  ## The site in site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

bench:  ## docs/performance.md anew, a quarter of an hour on an idle machine
	python -m tests.benchmarks
