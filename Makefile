# Needs Python 3.10 or later and make, and nothing else: everything is installed into .venv beside this file.

PYTHON ?= python3
LOG_DIR := runs/digits
ARGS :=

VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo view test test-all lint clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.12    the interpreter that .venv is made with"
	@echo "  LOG_DIR=runs/mine    where demo writes and view looks (now: $(LOG_DIR))"
	@echo "  ARGS='--epochs 3'    more options for demo, view or test"

demo: $(VENV)/run.stamp ## train a network on handwritten digits while its gradient is checked
	$(BIN)/python examples/02_train_digits.py --log-dir "$(LOG_DIR)" $(ARGS)

view: $(VENV)/run.stamp ## show in TensorBoard what the demo wrote
	@# In place of the shell, which a kill of make would end, and not what it has started.
	exec $(BIN)/gc-hooks view "$(LOG_DIR)" $(ARGS)

test: $(VENV)/test.stamp ## run the tests
	$(PYTEST) -m 'not slow' $(ARGS)

# Measuring makes the tests slower: only the longer of the two does it.
test-all: $(VENV)/test.stamp ## run the tests, measure their branch coverage, and then run the long hunts
	UNTESTED=$$($(HAS_TORCH) && echo nothing || echo '*/pytorch/*') $(PYTEST) --cov -m 'not slow' $(ARGS)
	FUZZ_EXAMPLES=60 $(PYTEST) -m slow $(ARGS)

PYTEST := $(BIN)/python -m pytest
# Without PyTorch its adapter is not tested, and does not count.
HAS_TORCH := $(BIN)/python -c 'import importlib.util as u; raise SystemExit(u.find_spec("torch") is None)'

lint: $(VENV)/dev.stamp ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict gc_hooks

clean: ## remove .venv and all caches and builds; training logs stay
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .mypy_cache .nox .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that .venv holds the package with what one purpose needs; a change of the requirements outdates it.
$(VENV)/run.stamp: WANTED := .
$(VENV)/test.stamp: WANTED := .[test]
$(VENV)/dev.stamp: WANTED := .[dev]
$(VENV)/%.stamp: setup.cfg pyproject.toml | $(BIN)/pip
	@echo "Installing '$(WANTED)' into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --editable '$(WANTED)'
	@touch $@

# Pip comes last into a new environment, so it tells a complete one from one that broke off.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "gc_hooks needs Python 3.10 or later, and '$(PYTHON)' is not: try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
