# One command for each thing a newcomer does; `make` alone lists them.

VENV := .venv
PYTHON := $(VENV)/bin/python
# Tried in this order; `make install PYTHONS=/path/to/python3.10` names another one.
PYTHONS := python3.11 python3.10 python3.9 python3

# Large pages for large tensors, where glibc is 2.35 or later: steps take 5 to 10% less time
# (docs/performance.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Stamps: what is already in .venv.
PACKAGES := $(VENV)/.packages-installed
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.dev-installed
# Says nothing but errors, and builds the few packages that come as source with the
# setuptools of requirements.txt.
BUILD_PINS := $(VENV)/build-pins.txt
PIP_INSTALL := PIP_CONSTRAINT=$(BUILD_PINS) $(PYTHON) -m pip install -qq --disable-pip-version-check

# `make demo MINUTES=30`, or any flag of the demo: `make demo DEMO_FLAGS=--help`.
DEMO_FLAGS := $(if $(MINUTES),--minutes=$(MINUTES))
# Any flag of the fine-tuning demo: `make demo-finetune FINETUNE_FLAGS=--seed=1`.
FINETUNE_FLAGS :=
# `make bench HF_PYTHON=path/to/python` names an environment with torch and transformers.
BENCH_FLAGS := --competitors dense gather einsum upstream \
	$(if $(HF_PYTHON),hf --hf_python $(HF_PYTHON))
# `make test PYTEST_FLAGS='-x -k router'`.
PYTEST_FLAGS :=
# Where torch and transformers are, for the tests that compare with them.
TORCH_VENV := .venv-torch
TORCH_INSTALLED := $(TORCH_VENV)/.installed
# Files of tests that run at a time; each takes up to 3 GB.
PROCESSES ?= 2
SIDE_BY_SIDE = -n $(PROCESSES) --dist loadfile

# `make lock LOCK_FLAGS=--upgrade` moves every package; without it, pins that still fit stay.
LOCK_FLAGS :=
UV_COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.9 \
	--no-emit-index-url --annotation-style line --custom-compile-command 'make lock' $(LOCK_FLAGS)

# TensorFlow, and what is there for it alone: a TPU's image has its own, built for TPUs.
OF_TPU_IMAGE := '^tensorflow(-macos)?==|\# via tensorflow$$'

.PHONY: help install install-dev demo demo-finetune bench test test-all goldens lint format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make .venv and install requirements.txt and this package into it
	@:

install-dev: install $(DEV_INSTALLED) ## the same, with the tools of `make test` and `make lint`
	@:

demo: install ## train a small Switch Transformer and its dense twin; MINUTES=30 for longer
	@$(PYTHON) -m mtf_switch.demo $(DEMO_FLAGS)

demo-finetune: install ## fine-tune the demo's models on three tasks: Table 4 of the paper, small
	@$(PYTHON) -m mtf_switch.demo.finetuning $(FINETUNE_FLAGS)

bench: install ## time the Switch layer and whole training steps; HF_PYTHON=... adds transformers
	@$(PYTHON) benchmarks/switch_layer.py $(BENCH_FLAGS)
	@$(PYTHON) benchmarks/switch_layer.py --experts 8 --group_sizes 4096 $(BENCH_FLAGS)
	@$(PYTHON) benchmarks/train_step.py $(BENCH_FLAGS)

test: install-dev ## run the tests, the slow ones left out; PROCESSES=1 for one file after the other
	@$(PYTHON) -m pytest $(SIDE_BY_SIDE) $(PYTEST_FLAGS)

test-all: install-dev $(TORCH_INSTALLED) ## run all tests; HF_PYTHON=... names a Python with torch
	@HF_PYTHON=$${HF_PYTHON:-$$(ls $(TORCH_VENV)/bin/python 2>/dev/null)} \
		$(PYTHON) -m pytest -m "" $(SIDE_BY_SIDE) $(PYTEST_FLAGS)

goldens: install-dev $(TORCH_INSTALLED) ## make tests/goldens anew, with transformers
	@PYTHONPATH=. $(PYTHON) tests/support/make_goldens.py $(or $(HF_PYTHON),$(TORCH_VENV)/bin/python)

lint: install-dev ## check the code's style
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

format: install-dev ## bring the code into style
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

lock: install-dev ## resolve requirements.in and requirements-dev.in again, and make requirements-tpu.txt
	@$(PIP_INSTALL) uv==0.13.9
	$(UV_COMPILE) requirements.in -o requirements.txt
	$(UV_COMPILE) requirements-dev.in -c requirements.txt -o requirements-dev.txt
	$(UV_COMPILE) --only-binary apache-beam requirements-beam.in -o requirements-beam.txt
	grep -vE $(OF_TPU_IMAGE) requirements.txt > requirements-tpu.txt

clean: ## remove .venv and every cache
	rm -rf $(VENV) $(TORCH_VENV) *.egg-info build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp goes first and comes back last: after an interrupted install there is none, and
# the next call starts from an empty .venv. A python3.x that is only a launcher for a Python
# that is not installed is found on PATH but does not run, so each candidate is run.
$(PACKAGES): requirements.txt
	@chosen=; if [ ! -e $@ ]; then \
		for python in $(PYTHONS); do \
			if $$python -c 'import sys, ensurepip, venv; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; then \
				chosen=$$python; break; \
			fi; \
		done; \
		if [ -z "$$chosen" ]; then \
			echo "No usable Python among $(PYTHONS): this needs Python 3.9, 3.10 or 3.11 (with venv and ensurepip), because TensorFlow 2.15.1, the last with the Estimator that Mesh TensorFlow trains with, has wheels for these only." >&2; \
			exit 1; \
		fi; \
		$$chosen -m venv --clear $(VENV); \
	fi
	@rm -f $@
	@echo "Installing the pinned packages into $(VENV) (about two minutes) ..."
	@grep '^setuptools==' requirements.txt > $(BUILD_PINS)
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(INSTALLED): pyproject.toml $(PACKAGES)
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_INSTALLED): requirements-dev.txt $(PACKAGES)
	@echo "Installing the test and style tools into $(VENV) ..."
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# torch needs Python 3.10. Without it, or with HF_PYTHON, there is nothing to do; tests say which
# of them they skip.
$(TORCH_INSTALLED): tests/requirements-torch.txt $(PACKAGES)
	@if [ -n "$(HF_PYTHON)" ]; then :; \
	elif $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
		echo "Installing torch and transformers into $(TORCH_VENV), for tests only ..." && \
		$(PYTHON) -m venv --clear $(TORCH_VENV) && \
		$(TORCH_VENV)/bin/python -m pip install -qq --disable-pip-version-check \
			-r tests/requirements-torch.txt && \
		touch $@; \
	else echo "torch needs Python 3.10: the tests that compare with it will be skipped."; fi
