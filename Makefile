# make setup · make demo · make test — each works on a fresh clone; PYTHON= chooses the interpreter (3.11 or 3.12).
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
UV := VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv
DONE := $(VENV)/.installed

# Every actor would compile again all that it imports, which doubles the start-up.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test pytest variant lint peers lock

setup: $(DONE)

$(DONE): requirements.txt pyproject.toml Makefile
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --quiet --require-hashes -r requirements.txt
	@# Three opencv distributions share one folder; the headless one goes last, since the others need libGL.
	$(UV) pip install --quiet --require-hashes --no-deps --reinstall-package opencv-python-headless -r requirements.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation -e .
	touch $(DONE)

demo: setup
	$(VENV)/bin/vemoclap-batch demo

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PYTHONPATH=jobs $(VENV)/bin/lint-imports --no-logo

test: setup
	$(MAKE) --jobs=2 lint pytest
	$(MAKE) variant

# Two processes share the files out; each has one Ray session for all its tests.
pytest: setup
	$(VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# The models' numbers once more, by the kernels of an old processor; the job has more variants and all numeric tests.
variant: setup
	$(VENV)/bin/python jobs/processor_variants.py --variant oldest \
		tests/extractors tests/fusion tests/jobs/test_lite_fusion.py tests/jobs/test_voice_training.py tests/networks

# What jobs/bench/peers.py measures against, without its dependencies: the pinned set has them, in newer versions.
peers: setup
	$(UV) pip install --quiet --no-deps --group peers

# Resolve the pinned set anew after a change of pyproject.toml.
lock: setup
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o requirements.txt
