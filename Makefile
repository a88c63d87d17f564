# All that happens is in scripts/dev.py. Arguments: make test ARGS="-k name", make demo ARGS=--keep, make demo PYTHON=python3.12
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-system contract bench bench-waiting bench-pacing bench-load bench-imports reliability fuzz mutants matrix lint audit docs dist pins clean
.NOTPARALLEL:

help:
	@$(PYTHON) scripts/dev.py --help

demo test test-system contract bench bench-waiting bench-pacing bench-load bench-imports reliability fuzz mutants matrix lint audit docs dist pins clean:
	@$(PYTHON) scripts/dev.py $@ -- $(ARGS)
