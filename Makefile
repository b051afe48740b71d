# make train    build the embedded corpus, train the default config on it, print the results table
# make test     the tests, on 8 simulated CPU devices
# make demo     make clips of a talking face, extract features, train, predict, export, and serve a page
#               at http://127.0.0.1:8000 until Ctrl+C: no download but packages
# make lint     what CI checks besides: ruff
# make test-torch   parity with PyTorch, in the same environment plus the extra [torch]
# make test-beam    Apache Beam writes the same data sets; an environment of its own
# make test-scale   2 and 4 processes as one run; damaged files, full disks; a tuned text encoder;
#                   sweeps of thirty runs, killed; on Ray where it is installed
# make test-slurm   launch/slurm.sh under a Slurm of two nodes on this machine; root, Debian
# make results  every run behind the tables of the README (long; the real corpora need IMAT_DATA)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/tiny
# To compile a gigabyte of packages, of which most is never imported, takes half of an installation.
INSTALL := pip install --quiet --disable-pip-version-check --no-compile

.PHONY: train demo test lint test-torch test-beam test-scale test-slurm results

$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), sys.version' || \
	  { echo 'Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11 …'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) --editable '.[dev]'
	touch $@

# What the media programs need besides.
$(VENV)/ready-media: $(VENV)/ready requirements-offline.txt
	$(BIN)/$(INSTALL) --editable '.[dev,media,egemaps,demo,serve]'
	$(BIN)/$(INSTALL) --no-deps -r requirements-offline.txt
	touch $@

$(VENV)/ready-test: $(VENV)/ready-media
	$(BIN)/$(INSTALL) --editable '.[dev,check]'
	touch $@

data/tiny: | $(VENV)/ready
	$(BIN)/python -m imat_jax.build --source=synthetic --output=$@

train: $(VENV)/ready data/tiny
	$(BIN)/python -m imat_jax.train --config=configs/tiny.py --workdir=$(RUN)

data/demo-media: | $(VENV)/ready-media
	$(BIN)/python examples/demo_media.py --output=$@

data/demo: | data/demo-media
	$(BIN)/python -m imat_jax.extract --input=data/demo-media --output=$@

runs/demo-artifact: data/demo
	$(BIN)/python -m imat_jax.train --config=configs/offline.py --workdir=runs/demo
	$(BIN)/python -m imat_jax.predict --workdir=runs/demo $$($(BIN)/python -c \
	  'import csv; print(*("data/demo-media/" + r["file"] for r in csv.DictReader(open("data/demo-media/table.csv")) if r["split"] == "test"))')
	$(BIN)/python -m imat_jax.export --workdir=runs/demo --output=$@

demo: runs/demo-artifact
	$(BIN)/python -m imat_jax.serve runs/demo-artifact

test: $(VENV)/ready-test
	$(BIN)/python -m pytest -n 2 --dist=worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/ready-torch: $(VENV)/ready-media
	$(BIN)/$(INSTALL) 'torch==2.13.0'
	$(BIN)/$(INSTALL) --editable '.[dev,torch,features]'
	touch $@

test-torch: $(VENV)/ready-torch
	$(BIN)/python -m pytest tests/with_torch --override-ini addopts='-q --strict-markers --strict-config'

# Beam pins an older protobuf than the rest runs with.
.venv-beam/ready: requirements.txt requirements-offline.txt pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/$(INSTALL) --editable '.[dev,beam,media]'
	.venv-beam/bin/$(INSTALL) --no-deps -r requirements-offline.txt
	touch $@

test-beam: .venv-beam/ready
	.venv-beam/bin/python -m pytest tests/with_beam --override-ini addopts='-q --strict-markers --strict-config'

test-scale: $(VENV)/ready-test
	$(BIN)/python -m pytest tests/at_scale -n 2 --dist=worksteal --override-ini addopts='-q --strict-markers --strict-config'

test-slurm: $(VENV)/ready
	PYTHON=$(BIN)/python tests/slurm/run.sh

results: $(VENV)/ready data/tiny
	PATH=$(BIN):$$PATH launch/results.sh
