# Daily work. How the environment is made stands in tools/install.sh.
#
#   make test PYTHON=/path/to/python   use an existing environment; nothing is installed into it
#   make test BASE_PYTHON=python3.12   make the environment with this Python
#   make test VENV=/elsewhere          keep the environment elsewhere
#   make test ARGS="-k newton -x"      pass options on to pytest (or to tools/demo.py)
#   make test JOBS=1                   test in one process

SHELL := /bin/bash
VENV ?= .venv
ARGS ?=
# Tests run in as many processes of one thread each; two threads in one process are slower than one.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))
STACK := torch numpy mmengine mmcv mmdet mmpose

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export BASE_PYTHON

# Only `make ... PYTHON=` counts: a variable of that name in the environment is nobody's request.
ifeq ($(origin PYTHON),command line)
PY := $(PYTHON)
ready = @tools/install.sh check "$(PY)" $(1)
ready_for_all = $(ready)
else
PY := $(VENV)/bin/python
ready = @tools/install.sh venv "$(VENV)"
ready_for_all = @tools/install.sh backbones "$(VENV)"
endif

.PHONY: help install venv demo test test-all test-faults lint clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'
	@sed -n 's/^#   /  /p' $(firstword $(MAKEFILE_LIST))

install: ## create .venv with everything in it, or complete it (about 15 minutes on 2 cores; later seconds)
	$(call ready,$(STACK))

venv: install ## the same

demo: ## make demo data, train, evaluate and draw
	$(call ready,$(STACK))
	$(PY) tools/demo.py $(ARGS)

test: ## run the tests, except the slow ones and those that break things
	$(call ready,$(STACK) pytest hypothesis ot xdist)
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-all: ## run all tests; installs MMPretrain and Albumentations too, which a few configs need
	$(call ready_for_all,$(STACK) pytest hypothesis ot xdist)
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "" $(ARGS)

test-faults: ## run the tests that interrupt, kill and corrupt
	$(call ready,$(STACK) pytest hypothesis ot)
	$(PY) -m pytest -m faults $(ARGS)

lint: ## check style and types
	$(call ready,ruff mypy)
	$(PY) -m ruff check .
	$(PY) -m mypy
	@for script in .ci/run tools/*.sh tools/*/*.sh; do echo "bash -n $$script"; bash -n "$$script" || exit 1; done

clean: ## remove what builds and tools left behind; environment, data and runs stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	[ ! -f "$(VENV)/pyvenv.cfg" ] || rm -rf "$(VENV)"
