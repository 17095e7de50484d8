# Daily work. How the environments are made stands in tools/install.sh.
#
#   make test PYTHON=/path/to/python   use an existing environment; nothing is installed into it
#   make test BASE_PYTHON=python3.12   make the environment with this Python
#   make test VENV=/elsewhere          keep the environment elsewhere
#   make test-oldest OLDEST_PYTHON=... the Python 3.8 to test the oldest stack with
#   make test ARGS="-k newton -x"      pass options on to pytest (or to tools/demo.py)
#   make test JOBS=1                   test in one process

SHELL := /bin/bash
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
TORCH_VENV ?= .venv-torch
ARGS ?=
# Tests run in as many processes of one thread each; two threads in one process are slower than one.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))
TORCH_ONLY := tests/transport tests/decoding tests/test_features.py tests/test_torch_only.py
STACK := torch numpy mmengine mmcv mmdet mmpose

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export BASE_PYTHON OLDEST_PYTHON

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

.PHONY: help install venv demo test test-all test-faults test-oldest test-torch lint clean distclean
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

test-oldest: ## run the tests with the oldest stack, in an environment of its own (constraints-oldest.txt)
	@tools/install.sh oldest "$(OLDEST_VENV)"
	$(OLDEST_VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-torch: ## run what needs torch only with the oldest Python and torch and no mm package
	@tools/install.sh torch "$(TORCH_VENV)"
	$(TORCH_VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(TORCH_ONLY) $(ARGS)

lint: ## check style, types, and that the oldest Python reads the code
	$(call ready,ruff mypy)
	$(PY) -m ruff check .
	$(PY) -m mypy
	@if python=$$(tools/install.sh oldest-python); then \
		echo "$$python reads what it is given"; \
		find hdm_mmpose configs tools tests -name '*.py' -print0 | xargs -0 "$$python" -c \
			'import sys; [compile(open(name, encoding="utf-8").read(), name, "exec") for name in sys.argv[1:]]'; \
	else echo "not tried whether the oldest Python reads the code"; fi
	@for script in .ci/run tools/*.sh tools/*/*.sh; do echo "bash -n $$script"; bash -n "$$script" || exit 1; done

clean: ## remove what builds and tools left behind; environment, data and runs stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*/*' -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	for venv in "$(VENV)" "$(OLDEST_VENV)" "$(TORCH_VENV)"; do [ ! -f "$$venv/pyvenv.cfg" ] || rm -rf "$$venv"; done
