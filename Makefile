# make train    build the embedded corpus, train the default config on it, print the results table
# make test     the tests, on 8 simulated CPU devices
# make lint     what CI checks besides: ruff
# make test-torch   parity with PyTorch, in the same environment plus the extra [torch]
# make test-beam    Apache Beam writes the same data sets; an environment of its own
# make results  every run behind the tables of the README (long; the real corpora need IMAT_DATA)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/tiny

.PHONY: train test lint test-torch test-beam results

$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), sys.version' || \
	  { echo 'Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11 …'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

data/tiny: | $(VENV)/ready
	$(BIN)/python -m imat_jax.build --source=synthetic --output=$@

train: $(VENV)/ready data/tiny
	$(BIN)/python -m imat_jax.train --config=configs/tiny.py --workdir=$(RUN)

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/ready-torch: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,torch]'
	touch $@

test-torch: $(VENV)/ready-torch
	$(BIN)/python -m pytest tests/with_torch --override-ini addopts='-q --strict-markers --strict-config'

# Beam pins an older protobuf than the rest runs with.
.venv-beam/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,beam]'
	touch $@

test-beam: .venv-beam/ready
	.venv-beam/bin/python -m pytest tests/with_beam --override-ini addopts='-q --strict-markers --strict-config'

results: $(VENV)/ready data/tiny
	PATH=$(BIN):$$PATH launch/results.sh
