# make train     own virtual environment, install, then train Space Invaders with a live display
# make test      the same environment, then the test suite
# make extras    tests in a browser, of notebooks, with Stable-Baselines3 and other extras
# make cluster   a sweep on two Ray nodes on this machine, one of which is lost
# make check     what contributors run: tests, lint, types, format
# make dist      sdist and wheel, the wheel tried out in an environment of its own
# make docs      the docs as a site, in build/site; a warning is an error
# make bench     speed beside other libraries, which it installs elsewhere; PEERS=--no-peers: alone
# CPU=1          the small CPU build of PyTorch (for machines without an NVIDIA GPU)

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PEERS ?=
BIN := $(VENV)/bin
ISSUE_FORMS := $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
EXTRAS := sb3|browser|notebook|rliable|tune|trackers|onnx|minari|space
ifdef CPU
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
endif

.PHONY: install train test extras cluster check lint docs dist bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH_INDEX) -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-extras: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(TORCH_INDEX) -c constraints.txt -e '.[dev,sb3,browser,notebook,rliable,tune,watch,wandb,trackio,onnx,minari,docs]'
	touch $@

# Ctrl-C (130) and the time limit (75) are no errors: the run is saved, and says how it goes on.
train: install
	@trap : INT; $(BIN)/dqn-train --env SpaceInvaders $(ARGS); code=$$?; \
	[ $$code -eq 130 ] || [ $$code -eq 75 ] || exit $$code

test: install
	$(BIN)/python -m pytest $(ARGS)

extras: $(VENV)/installed-extras
	$(BIN)/python -m pytest $$(grep -rlE --include='test_*.py' 'mark\.($(EXTRAS))' tests) -m '($(subst |, or ,$(EXTRAS))) and not slow' $(ARGS)

cluster: install
	$(BIN)/python -m pip install --quiet $(TORCH_INDEX) -c constraints.txt -e '.[dev,cluster]'
	$(BIN)/python -m pytest -n 0 -m cluster $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	printf '%s\n' linux win32 darwin | xargs -P 3 -I SYSTEM \
	$(BIN)/mypy --platform SYSTEM --cache-dir .mypy_cache/SYSTEM
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms $(ISSUE_FORMS)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff

check: test lint

dist: install
	$(BIN)/python -m pip install --quiet $(TORCH_INDEX) -c constraints.txt -e '.[dev,release]'
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python scripts/try_wheel.py dist/*.whl $(TORCH_INDEX) -c constraints.txt

docs: install
	$(BIN)/python -m pip install --quiet $(TORCH_INDEX) -c constraints.txt -e '.[docs]'
	PYTHONPATH=scripts $(BIN)/zensical build --clean --strict

bench: install
	$(BIN)/python scripts/benchmark_replay.py --sizes 50_000
	$(BIN)/python scripts/benchmark_envs.py --num-envs 1 8 $(PEERS)
	$(BIN)/python scripts/benchmark_training.py --repetitions 2 --seconds 5 $(PEERS)

clean:
	rm -rf $(VENV) build dist .cache *.egg-info .mypy_cache .ruff_cache .pytest_cache
