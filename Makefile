# All that happens is in scripts/dev.py. Arguments: make test ARGS="-k name", make demo ARGS=--keep, make demo PYTHON=python3.12
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-system bench bench-pacing bench-load matrix lint docs dist pins clean
.NOTPARALLEL:

help:
	@$(PYTHON) scripts/dev.py --help

demo test test-system bench bench-pacing bench-load matrix lint docs dist pins clean:
	@$(PYTHON) scripts/dev.py $@ -- $(ARGS)
