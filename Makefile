# `make demo` and `make test` work from a bare clone: the virtual environment in .venv builds itself.
#
#   make PYTHON=/path/to/python test-gpu    use that interpreter as it is: nothing is installed. Its packages, or those on the
#                                           caller's PYTHONPATH, must hold the dependencies; the project comes from this checkout.
#   make BASE_PYTHON=python3.12 demo        build .venv from another interpreter than python3
#   make test ARGS="-x -k rms_norm"         further arguments for pytest, ruff, mypy, the demo or the page generator

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo qualify test test-all test-gpu test-integrations lint types docs workloads clean tree

BASE_PYTHON ?= python3
ARGS ?=
PROGRESS = $$([ -t 1 ] || echo --quiet)
INSTALLED := build/types
TREE := build/tree

ifeq ($(strip $(PYTHON)),)
PY := $(CURDIR)/.venv/bin/python
READY := .venv/.stamp
else
PY := $(if $(findstring /,$(PYTHON)),$(abspath $(PYTHON)),$(PYTHON))
READY := tree
export PYTHONPATH := $(CURDIR)/$(TREE)$(if $(PYTHONPATH),:$(PYTHONPATH))
# Without it `python -m` puts the checkout in front, where fastkernels_env/ lacks its `envs` and `reward`.
export PYTHONSAFEPATH := 1
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## watch good, slow, wrong and cheating kernels being judged on this machine
	"$(PY)" -m fastkernels_env demo $(ARGS)

qualify: $(READY) ## judge mutants of every task's seeds on the CPU: none may survive (half an hour; ARGS="rms_norm --budget 10")
	"$(PY)" -m fastkernels_env qualify --device cpu --out build/qualify.jsonl $(ARGS)

test: $(READY) ## the tests that need no GPU, of the dear ones a sample: another with every commit
	"$(PY)" -m pytest -m "not gpu" $(ARGS)

test-all: $(READY) ## every test that needs no GPU, whole (hours once there are many tasks)
	FASTKERNELS_TESTS=all "$(PY)" -m pytest -m "not gpu" $(ARGS)

test-gpu: $(READY) ## the tests that need a CUDA device
	"$(PY)" -m pytest -m gpu tests/gpu $(ARGS)

test-integrations: .venv/.stamp ## every trainer's own package against ours, in environments of their own (ARGS="trl verl": these alone)
	.venv/bin/python tests/integrations/run.py $(ARGS)

lint: $(READY) ## ruff
	"$(PY)" -m ruff check --extend-exclude build . $(ARGS)

# mypy cannot follow the package-dir mapping of an editable install, so it reads an installed wheel, from a folder in which the
# sources of the checkout are out of sight. build/lib goes first: setuptools would pack files that no longer exist.
types: $(READY) ## mypy --strict on the installed wheel
	rm -rf build/lib $(INSTALLED)
	"$(PY)" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile --target $(INSTALLED) .
	cd $(INSTALLED) && "$(PY)" -m mypy --strict --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" \
		-p fastkernels_env $(ARGS)

docs: $(READY) ## write docs/envs/ from the tasks
	"$(PY)" docs/generate.py $(ARGS)

workloads: $(READY) ## capture the CUDA rows of the shipped tasks anew, say what differs (needs the extra "models"; ARGS=--write)
	"$(PY)" -m fastkernels_env.capture.shipped $(ARGS)

clean: ## remove everything that was built, .venv too
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so an environment that is only half there is completed by the next call. A .venv without a working pip
# (a copied or broken one) is made anew.
.venv/.stamp: pyproject.toml constraints.txt
	@rm -f $@
	@$(BASE_PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
		"expected Python 3.11 or newer, $(BASE_PYTHON) is " + v + "; name a newer one: make BASE_PYTHON=python3.12 ...")'
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(BASE_PYTHON) -m venv --clear .venv || { rm -rf .venv; \
		echo "could not create .venv: install the venv module for $(BASE_PYTHON) (Debian, Ubuntu: the package python3-venv)" >&2; exit 1; }
	@echo "Installing the dependencies into .venv (a minute or more, once) ..."
	@.venv/bin/python -m pip install $(PROGRESS) --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The package as a wheel would install it, as links into the checkout.
tree:
	@rm -rf $(TREE) && mkdir -p $(TREE)/fastkernels_env
	@ln -s "$(CURDIR)"/fastkernels_env/* "$(CURDIR)/envs" "$(CURDIR)/reward" $(TREE)/fastkernels_env/
