# The inner loop. Run in the project's virtual environment: pip install -c constraints.txt -e '.[dev]'
.PHONY: check quick test docs bench

check:  ## Lint, format, types, floors
	ruff check .
	ruff format --check .
	mypy
	lint-imports

quick:  ## Small tests of every folder, on two cores
	OMP_NUM_THREADS=1 python -m pytest -q -m quick -n 2

test:  ## Every test but the long ones (--slow)
	python -m pytest -q

docs:  ## The site in site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

bench:  ## docs/performance.md anew, some ten minutes on an idle machine
	python -m tests.benchmarks
