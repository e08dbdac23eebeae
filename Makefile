# Everything there is to do here:
#   make install | run | test | check | campaign | matrix | lint | bench | gpu-wheels | docs
#   make clean
#
#   make run MODEL=LLMEmbGRU4Rec ARGS="--dataset=Amazon_Beauty --data_path=../shared/data/"
#   make test ARGS="-k table"
#
# The environment is .venv in the checkout, made once and again when its inputs change.
#   PYTHON      the interpreter it is made with (3.10 to 3.13)
#   TORCH       the PyTorch to install where there is none yet
#   TORCH_ARGS  pip's options for that, for one without CUDA on Linux:
#               TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
#   VENV_ARGS   --system-site-packages uses the PyTorch (CUDA or not) of PYTHON itself
#   WORKERS     processes that run the tests, whole files each; 0 is none but pytest's own
#   GPU_WHEELS  the folder of gpu-wheels, for the Python GPU_PYTHON
# A PyTorch that is already there, 2.6 or later, is never replaced.

VENV       ?= .venv
PYTHON     ?= python3
VENV_ARGS  ?=
TORCH      ?= torch==2.13.0
TORCH_ARGS ?=
EXTRAS     ?= dev
MODEL      ?= LLMEmbSASRec
ARGS       ?=
GPU_WHEELS ?= gpu-wheels
GPU_PYTHON ?= 3.12
PYTHONS    ?= 3.10 3.11 3.12 3.13
PYENV      ?= $(HOME)/.pyenv
# Three also on two cores: tests of clusters and of killed processes wait more than they work.
WORKERS    ?= 3

PY    := $(VENV)/bin/python
PIP   := $(PY) -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed

.PHONY: install run test check campaign matrix lint bench gpu-wheels docs clean

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v else \
	    "Python 3.10 or later is needed, %s.%s was found: make install PYTHON=..." % v)'
	test -x $(PY) || $(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	$(PY) -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH_ARGS) '$(TORCH)'
	@# Held where it is: nothing installed below may bring another PyTorch.
	$(PY) -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' \
	    > $(VENV)/torch.txt
	$(PIP) install -c $(VENV)/torch.txt -c constraints.txt -e '.[$(EXTRAS)]'
	@# Its own pins are out of date and cannot all be met; setup.cfg has its real needs.
	$(PIP) install --no-deps recbole==1.2.1
	touch $@

run: $(STAMP)
	$(PY) run_recbole_llm.py --model=$(MODEL) $(ARGS)

test: $(STAMP)
	$(PY) -m pytest -n $(WORKERS) --dist=loadfile $(ARGS)

# What is worth knowing before each commit, within two minutes on two cores.
check: lint
	$(PY) -m pytest -m unit -n 2 --dist=worksteal $(ARGS)

# What breaks under kills, damaged files and bad input, for as long as it is given:
#   make campaign ARGS="--minutes=60"
campaign: $(STAMP)
	$(PY) -m tests.campaign $(ARGS)

# The same under each Python that is here, in an environment of its own (gigabytes each).
matrix:
	@for version in $(PYTHONS); do \
	    python=$$(ls -d $(PYENV)/versions/$$version.*/bin/python 2>/dev/null | tail -n 1); \
	    python=$${python:-$$(command -v python$$version)}; \
	    if [ -z "$$python" ]; then echo "Python $$version is not here: skipped"; continue; fi; \
	    echo "Python $$version: $$python"; \
	    $(MAKE) check PYTHON="$$python" VENV="$(VENV)-$$version" || exit; \
	done

# ruff's rules and layout, who imports whom (.importlinter), types.
lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(PY) -m mypy

bench: $(STAMP)
	$(PY) -m benchmarks $(ARGS)

gpu-wheels: $(STAMP)
	$(PY) -m benchmarks.gpu.wheels $(GPU_WHEELS) --python_version=$(GPU_PYTHON) $(ARGS)

$(VENV)/.installed-docs: $(STAMP)
	$(PIP) install -c $(VENV)/torch.txt -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build .pytest_cache .ruff_cache .mypy_cache \
	    .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
