# Sets up the project's environment in .venv and runs a command in it. Commands with several steps are in noxfile.py.
#   make test ARGS="-k name"        make demo ARGS=--keep        make demo PYTHON=python3.12
SUPPORTED := 3.10 3.11 3.12 3.13
ARGS ?=
PYTHON ?= $(shell for p in python3 $(SUPPORTED:%=python%); do $$p -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] not in '$(SUPPORTED)'.split())" 2>/dev/null && echo $$p && exit; done; echo python3)
PYTHON := $(PYTHON)

# The environment belongs to one interpreter and one folder. It is recreated for another interpreter, or after a move.
MADE = .venv/.made-$(shell ($(PYTHON) --version; pwd) 2>&1 | cksum | cut -d ' ' -f 1)
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv" .venv/bin/python
NOX := $(RUN) -m nox

# Without byte code every Airflow process starts twice as slowly; the other variables would add packages of another environment.
unexport PYTHONPATH PYTHONDONTWRITEBYTECODE PYTHONHOME VIRTUAL_ENV
export UV_COMPILE_BYTECODE := 1
# Tolerate a mirror that is slow for a moment.
export PIP_DEFAULT_TIMEOUT ?= 60
export PIP_RETRIES ?= 10
export UV_HTTP_TIMEOUT ?= 60
export UV_HTTP_RETRIES ?= 10

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-system contract bench bench-pacing bench-load bench-load-deals bench-big-loads bench-imports bench-waiters reliability soak fuzz mutants matrix lint audit docs dist pins clean

help: ## Lists the commands
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 18

demo: .venv/.ready-test ## Runs the example pipeline and loads on a real Airflow against the sandbox (ARGS="--keep", "--dag ID")
	@$(RUN) scripts/demo.py $(ARGS)

test: .venv/.ready-test ## Style, types, layers, unit and integration tests; with ARGS only pytest, with these arguments
	@$(if $(value ARGS),$(RUN) -m pytest $(ARGS),$(NOX) --parallel auto -s style format types layers unit integration)

test-system: .venv/.ready-system ## Tests that need a real scheduler and triggerer, Celery workers, Redis or a browser; ARGS go to pytest
	@$(NOX) -s system -- $(ARGS)

contract: .venv/.ready-test ## Checks the assumptions about the API on the sandbox and on the account of CRM_API_KEY (ARGS="--report FILE")
	@$(RUN) -m pytest tests/contract --contract $(ARGS)

bench: .venv/.ready-bench ## Compares this provider with hand-written code (ARGS="--write docs/performance.md")
	@$(RUN) tests/benchmarks/bench_side_by_side.py $(ARGS)

bench-pacing: .venv/.ready-test ## Share of the rate limit that is used (ARGS="--write docs/rate-budget.md")
	@$(RUN) tests/benchmarks/bench_rate_limit.py $(ARGS)

bench-load: .venv/.ready-test ## Cost of a load: share of the limit, calls, memory (ARGS="--write docs/load.md")
	@$(RUN) tests/benchmarks/bench_load.py $(ARGS)

bench-load-deals: .venv/.ready-test ## Cost of a load of deals, compared with a loop (ARGS="--write docs/load-deals.md")
	@$(RUN) tests/benchmarks/bench_load_deals.py $(ARGS)

bench-big-loads: .venv/.ready-test ## Memory and time of big loads (ARGS="--rows 10000000 --write docs/performance.md")
	@$(RUN) tests/benchmarks/bench_big_loads.py $(ARGS)

bench-imports: .venv/.ready-bench ## Parse time of a DAG file, compared with official providers (ARGS="--write docs/performance.md")
	@$(RUN) tests/benchmarks/bench_imports.py $(ARGS)

bench-waiters: .venv/.ready-system ## Cost of many deferred sensors on PostgreSQL (ARGS="--waiters 10000 --write docs/performance.md")
	@$(RUN) tests/benchmarks/bench_waiters.py $(ARGS)

reliability: .venv/.ready-system ## Breaks networks, servers and processes, and writes docs/reliability.md; ARGS go to pytest
	@$(NOX) -s reliability -- $(ARGS)

soak: .venv/.ready-test ## An hour of work with random faults, and what it finds wrong (ARGS="--minutes 60 --seed N --write docs/reliability.md")
	@$(RUN) tests/benchmarks/bench_soak.py $(ARGS)

fuzz: .venv/.ready-system ## Property tests with many new examples (CRM_FUZZ_EXAMPLES=500); ARGS go to pytest
	@$(NOX) -s fuzz -- $(ARGS)

mutants: .venv/.ready-mutation ## Changes the code that makes decisions and checks whether a test fails (ARGS="GROUP --again")
	@$(RUN) scripts/mutants.py $(ARGS)

# A named cell fails without its interpreter. A run of all cells skips those without one.
matrix: .venv/.ready-test ## Tests on every supported Airflow and Python (ARGS="airflow-3.1 3.12" selects cells; after -- for pytest)
	@PATH="$$(echo $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1*/bin | tr ' ' :):$$PATH" .venv/bin/python -m nox \
		$(if $(filter-out --,$(firstword $(ARGS))),--error-on-missing-interpreters -s,--no-error-on-missing-interpreters -t matrix) $(ARGS)

lint: .venv/.ready-test ## Style, types and layers (ARGS="--fix" goes to ruff)
	@$(NOX) -s style format types layers -- $(ARGS)

audit: .venv/.ready-audit ## Checks the pinned versions for known vulnerabilities; ARGS go to pip-audit
	@$(RUN) -m pip_audit --strict --disable-pip --no-deps --progress-spinner off --requirement constraints.txt $(ARGS)

docs: .venv/.ready-docs ## Builds the documentation as a site and runs its examples; with ARGS only pytest ("linkcheck": external links)
	@$(if $(value ARGS),$(if $(filter linkcheck,$(ARGS)),$(NOX) -s linkcheck,$(RUN) -m pytest -m docs $(ARGS)),$(NOX) -s site examples)

dist: .venv/.ready-docs ## Builds the packages in dist/, checks them, and tests the wheel in an empty environment
	@$(NOX) -s packages wheel

pins: .venv/.ready-test ## Recreates constraints.txt and constraints/; ARGS: only these files
	@$(NOX) -s pins -- $(ARGS)

clean: ## Deletes the virtual environments and the files that tools leave behind
	@rm -rf .venv .venv-matrix build dist site .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache ./*.egg-info
	@find crm_provider example_dags scripts tests -name __pycache__ -prune -exec rm -rf {} +

# -- the environment: created once, and updated when its dependencies change. uv checks the hashes of what it installs; pip
# cannot, beside an editable package, so it gets the versions only, and only where there is no uv.

$(MADE):
	@$(PYTHON) -c "import sys; v = '%d.%d' % sys.version_info[:2]; sys.exit(None if v in '$(SUPPORTED)'.split() else 'Python ' + v + ' is not supported, only $(SUPPORTED): try make PYTHON=python3.12')"
	@echo "creating .venv with $$($(PYTHON) --version)"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv >/dev/null || $(PYTHON) -m venv --clear --without-pip .venv
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python .venv/bin/python install --quiet 'pip>=25.1' \
		|| { echo "This Python cannot install packages: install python3-venv (Debian, Ubuntu), and run this again"; exit 1; }
	@.venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@sed -n '/^uv==/,/[^\\]$$/p' constraints.txt >.venv/uv.txt
	@.venv/bin/python -m pip install --quiet --require-hashes --requirement .venv/uv.txt || echo "There is no uv for this machine; pip takes longer"
	@touch $@

# The system tests need servers, and mysqlclient is compiled: their Debian packages come first.
.venv/.ready-system: .venv/.programs
.venv/.programs: noxfile.py .venv/.ready-test
	@$(NOX) -s programs
	@touch $@

.venv/.ready-%: pyproject.toml constraints.txt $(MADE)
	@echo "installing constraints.txt into .venv for $*"
	@sed -E '/^ +--hash/d; s/ \\$$//' constraints.txt >.venv/versions.txt
	@set -- --group tools --editable '.[$*]'; \
		if test ! -x .venv/bin/uv; then .venv/bin/python -m pip install --quiet --constraint .venv/versions.txt "$$@"; \
		else set -- .venv/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt "$$@"; "$$@" || "$$@"; fi \
		|| { echo "If the messages above are about the network: connect and run the same command again"; exit 1; }
	@touch $@
