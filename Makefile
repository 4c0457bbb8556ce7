# The commands for users and contributors. `make` lists them.

VENV := .venv
PYTHON := $(VENV)/bin/python
# Candidates, in this order. To use another one: `make install PYTHONS=/path/to/python3.10`.
PYTHONS := python3.11 python3.10 python3.9 python3

# Huge pages for large tensors. With glibc 2.35 or later, steps take 5 to 10% less time
# (docs/performance.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Stamp files that record what is installed in .venv.
PACKAGES := $(VENV)/.packages-installed
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.dev-installed
# Installs quietly. The few packages that come as source are built with the setuptools of
# requirements.txt.
BUILD_PINS := $(VENV)/build-pins.txt
PIP_INSTALL := PIP_CONSTRAINT=$(BUILD_PINS) $(PYTHON) -m pip install -qq --disable-pip-version-check

# `make demo MINUTES=30`. DEMO_FLAGS passes any flag to the demo: `make demo DEMO_FLAGS=--help`.
DEMO_FLAGS := $(if $(MINUTES),--minutes=$(MINUTES))
# Passes any flag to the fine-tuning demo: `make demo-finetune FINETUNE_FLAGS=--seed=1`.
FINETUNE_FLAGS :=
# Flags of `reproduce` for the multilingual demo: `make demo-multilingual MULTILINGUAL_FLAGS=--seeds=1`.
MULTILINGUAL_FLAGS := --seeds=3
# HF_PYTHON is a Python with torch and transformers: `make bench HF_PYTHON=path/to/python`.
# Passes any flag to the benchmarks: `make bench BENCH_FLAGS='--only step --repetitions 5'`.
BENCH_FLAGS :=
# Passes any flag to pytest: `make test PYTEST_FLAGS='-x -k router'`.
PYTEST_FLAGS :=
# The environment with torch and transformers, for the tests that compare with them.
TORCH_VENV := .venv-torch
TORCH_INSTALLED := $(TORCH_VENV)/.installed
# The environment with the pinned packages alone, in which a test installs and tries the wheel.
WHEEL_VENV := .venv-wheel
WHEEL_INSTALLED := $(WHEEL_VENV)/.installed
# JupyterLab and the runner of notebooks.
LAB_INSTALLED := $(VENV)/.lab-installed
NOTEBOOK := docs/lab/switch_layer.ipynb
# Number of test files that run at the same time. Each takes up to 3 GB.
PROCESSES ?= 2
PYTEST_PARALLEL = -n $(PROCESSES) --dist loadfile

# `make lock` keeps the pins that still fit. `make lock LOCK_FLAGS=--upgrade` upgrades everything.
LOCK_FLAGS :=
UV_COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.9 \
	--no-emit-index-url --annotation-style line --custom-compile-command 'make lock' $(LOCK_FLAGS)

# Wheels that are only read need no dependencies, and may need another Python than this project.
UV_COMPILE_WHEELS := $(VENV)/bin/uv pip compile --quiet --no-deps --python-version 3.13 \
	--no-emit-index-url --annotation-style line --custom-compile-command 'make lock' $(LOCK_FLAGS)

# TensorFlow and the packages that only TensorFlow needs. A TPU image has its own TensorFlow.
TPU_IMAGE_PACKAGES := '^tensorflow(-macos)?==|\# via tensorflow$$'

# The TPU's compiler has a folder of its own: among the packages, JAX would look for a TPU in every
# process that uses it, which takes 8 minutes on a machine without one.
COMPILER := $(VENV)/tpu_compiler
COMPILER_INSTALLED := $(COMPILER)/.installed

# The wheels of translated projects, from which the multilingual text is read. They are not installed.
MULTILINGUAL := $(VENV)/multilingual
MULTILINGUAL_INSTALLED := $(MULTILINGUAL)/.installed

.PHONY: help install install-dev install-compiler install-multilingual demo demo-finetune demo-multilingual lab lab-outputs bench test test-all test-compiler goldens lint format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-21s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## create .venv and install the pinned packages and this project
	@:

install-dev: install $(DEV_INSTALLED) ## also install the tools of `make test` and `make lint`
	@:

install-compiler: install $(COMPILER_INSTALLED) ## also install the TPU's compiler, for `run_switch.py compile` (Linux x86-64)
	@:

install-multilingual: install $(MULTILINGUAL_INSTALLED) ## also download the packages whose translations are the multilingual text
	@:

demo: install ## train a tiny Switch Transformer and its dense twin; MINUTES=30 trains longer
	@$(PYTHON) -m mtf_switch.demo $(DEMO_FLAGS)

demo-finetune: install ## fine-tune the demo's models on three tasks: a small version of the paper's Table 4
	@$(PYTHON) -m mtf_switch.demo.finetuning $(FINETUNE_FLAGS)

demo-multilingual: install-multilingual ## pre-train mT5-tiny and mSwitch-tiny on many languages: Figures 7 and 8
	@$(PYTHON) run_switch.py reproduce figure_7 figure_8 $(MULTILINGUAL_FLAGS)

lab: install $(LAB_INSTALLED) ## open the lab, a notebook on the Switch layer, in JupyterLab
	@$(PYTHON) -m jupyterlab $(NOTEBOOK)

lab-outputs: install $(LAB_INSTALLED) ## execute the lab's notebook, and keep its outputs in the file
	@$(PYTHON) -m nbconvert --to=notebook --execute --inplace --log-level=WARN \
		--ClearMetadataPreprocessor.enabled=True $(NOTEBOOK)

bench: install ## measure the Switch layer, a training step, its memory and input, whole commands, decoding and the two runtimes; HF_PYTHON=... adds transformers
	@$(PYTHON) benchmarks/run_all.py $(if $(HF_PYTHON),--hf_python $(HF_PYTHON)) $(BENCH_FLAGS)

test: install-dev ## run the tests without the slow ones; PROCESSES=1 runs one file at a time
	@$(PYTHON) -m pytest $(PYTEST_PARALLEL) $(PYTEST_FLAGS)

test-all: install-dev $(TORCH_INSTALLED) $(WHEEL_INSTALLED) $(LAB_INSTALLED) ## run all tests; HF_PYTHON=... is a Python with torch and transformers
	@HF_PYTHON=$${HF_PYTHON:-$$(ls $(TORCH_VENV)/bin/python 2>/dev/null)} \
		LOCKED_PYTHON=$(WHEEL_VENV)/bin/python \
		$(PYTHON) -m pytest -m "" $(PYTEST_PARALLEL) $(PYTEST_FLAGS)

test-compiler: install-dev install-compiler ## compile tiny models of all layouts for a TPU v3-8
	@$(PYTHON) -m pytest -m 'compiler and not slow' tests/programs tests/planning $(PYTEST_FLAGS)

goldens: install-dev $(TORCH_INSTALLED) ## regenerate tests/goldens with transformers
	@PYTHONPATH=. $(PYTHON) tests/support/make_goldens.py $(or $(HF_PYTHON),$(TORCH_VENV)/bin/python)

lint: install-dev ## check the code style
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

format: install-dev ## format the code
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

lock: install-dev ## resolve all requirements*.in again, and write requirements-tpu.txt
	@$(PIP_INSTALL) uv==0.13.9
	$(UV_COMPILE) requirements.in -o requirements.txt
	$(UV_COMPILE) requirements-dev.in -c requirements.txt -o requirements-dev.txt
	$(UV_COMPILE) requirements-lab.in -c requirements.txt -o requirements-lab.txt
	$(UV_COMPILE) requirements-compiler.in -o requirements-compiler.txt
	$(UV_COMPILE) --only-binary apache-beam requirements-beam.in -o requirements-beam.txt
	$(UV_COMPILE_WHEELS) requirements-multilingual.in -o requirements-multilingual.txt
	grep -vE $(TPU_IMAGE_PACKAGES) requirements.txt > requirements-tpu.txt

clean: ## remove .venv and all caches
	rm -rf $(VENV) $(TORCH_VENV) $(WHEEL_VENV) *.egg-info build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is removed first and written last. After an interrupted install it is missing, and the
# next call starts from an empty .venv. Each candidate Python is executed, because a python3.x on
# PATH may be a launcher for a Python that is not installed.
$(PACKAGES): requirements.txt
	@chosen=; if [ ! -e $@ ]; then \
		for python in $(PYTHONS); do \
			if $$python -c 'import sys, ensurepip, venv; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; then \
				chosen=$$python; break; \
			fi; \
		done; \
		if [ -z "$$chosen" ]; then \
			echo "No usable Python among $(PYTHONS): this project needs Python 3.9, 3.10 or 3.11 (with venv and ensurepip). Mesh TensorFlow trains with the Estimator of TensorFlow 2.15.1, which has wheels for these versions only." >&2; \
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

$(LAB_INSTALLED): requirements-lab.txt $(PACKAGES)
	@echo "Installing JupyterLab into $(VENV) ..."
	@$(PIP_INSTALL) -r requirements-lab.txt
	@touch $@

$(COMPILER_INSTALLED): requirements-compiler.txt $(PACKAGES)
	@if [ "$$(uname -sm)" != "Linux x86_64" ]; then \
		echo "The TPU's compiler exists for Linux on x86-64 only, and this machine is $$(uname -sm)." >&2; \
		exit 1; \
	fi
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
		echo "The TPU's compiler needs Python 3.10 or 3.11, and $(VENV) has an older one: run 'make clean', then 'make install-compiler PYTHONS=python3.11'." >&2; \
		exit 1; \
	fi
	@echo "Installing the TPU's compiler into $(COMPILER) (129 MB) ..."
	@rm -rf $(COMPILER)
	@$(PIP_INSTALL) --no-deps --target $(COMPILER) -r requirements-compiler.txt
	@touch $@

$(WHEEL_INSTALLED): requirements.txt $(PACKAGES)
	@echo "Installing the pinned packages into $(WHEEL_VENV), to try the wheel in ..."
	@$(PYTHON) -m venv --clear $(WHEEL_VENV)
	@PIP_CONSTRAINT=$(BUILD_PINS) $(WHEEL_VENV)/bin/python -m pip install -qq \
		--disable-pip-version-check -r requirements.txt
	@touch $@

# The wheels that a stopped download leaves behind are removed first.
$(MULTILINGUAL_INSTALLED): requirements-multilingual.txt $(PACKAGES)
	@echo "Downloading translated packages into $(MULTILINGUAL) (55 MB) ..."
	@rm -rf $(MULTILINGUAL)
	@$(PYTHON) -m pip download -qq --disable-pip-version-check --no-deps --only-binary :all: \
		--ignore-requires-python --dest $(MULTILINGUAL) -r requirements-multilingual.txt
	@touch $@

# torch needs Python 3.10 or later. Nothing is installed with an older Python or with HF_PYTHON; the
# tests report what they skip.
$(TORCH_INSTALLED): tests/requirements-torch.txt $(PACKAGES)
	@if [ -n "$(HF_PYTHON)" ]; then :; \
	elif $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
		echo "Installing torch and transformers into $(TORCH_VENV), for tests only ..." && \
		$(PYTHON) -m venv --clear $(TORCH_VENV) && \
		$(TORCH_VENV)/bin/python -m pip install -qq --disable-pip-version-check \
			-r tests/requirements-torch.txt && \
		touch $@; \
	else echo "torch needs Python 3.10 or later: the tests that compare with it will be skipped."; fi
