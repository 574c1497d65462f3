# The two commands of the README are `make run` and `make test`.
.PHONY: run test format lint types check bench policy policy-rate-only clean help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
# What `make run` meta-trains: three tasks, which is enough to learn something; CI gives less.
TRAIN ?= agent=small suite=small
# The two slowest tasks left out, a recurrent and an attentive one.
EVALUATE ?= '~suite.tasks.code_transformer' '~suite.tasks.surnames_gru'
OUT := outputs/run

help:
	@echo "make run     install, meta-train a small policy, deploy it, evaluate it (4 minutes after the install)"
	@echo "make test    install, run the tests"
	@echo "make check   format, lint and types, as CI runs them"
	@echo "make format  format the code"
	@echo "make bench   measure the engine, DACBench beside it, and the pilot (18 minutes)"
	@echo "make policy  meta-train the policy that ships, into outputs/policy"
	@echo "make policy-rate-only  meta-train the one that ships beside it"
	@echo "make clean   remove .venv, caches and build products"

# torch comes first: once its build is there, nothing asks for another.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[tasks,rivals]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

run: $(VENV)/.installed
	@echo "1/3 meta-training a small policy"
	$(BIN)/trainpilot train $(TRAIN) hydra.run.dir=$(OUT)/train
	@echo "2/3 deploying it to digits, which it never saw"
	$(BIN)/trainpilot deploy policy=$(OUT)/train/policy.safetensors task=digits_mlp \
	  hydra.run.dir=$(OUT)/deploy
	@echo "3/3 evaluating it against its rivals on tasks that it never saw"
	$(BIN)/trainpilot evaluate policy=$(OUT)/train/policy.safetensors suite=meta_test \
	  hydra.run.dir=$(OUT)/evaluate $(EVALUATE)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# mypy cannot follow the editable install's mapping of folders: a tree of links shows it.
TYPES := build/types/trainpilot
types: $(VENV)/.installed-dev
	@mkdir -p $(TYPES)
	@for name in agents conf envs inner_tasks; do ln -sfn ../../../$$name $(TYPES)/$$name; done
	@for file in src/trainpilot/*; do ln -sfn ../../../$$file $(TYPES)/; done
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p trainpilot

check: lint types

# DACBench wants other versions than we do, and imports more than it needs: an environment of its
# own, without what it declares and never imports.
DACBENCH := .venv-dacbench
DACPIP := $(DACBENCH)/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt
$(DACBENCH)/.installed:
	$(PYTHON) -m venv $(DACBENCH)
	$(DACPIP) torch
	$(DACPIP) gymnasium matplotlib numpy pillow scipy ConfigSpace==1.2.2 ioh==0.3.22 \
	  more-itertools==11.2.1 pandas==3.1.1 seaborn==0.13.2
	$(DACPIP) --no-deps dacbench==0.5.6 torchvision==0.28.0
	@touch $@

bench: $(VENV)/.installed $(DACBENCH)/.installed
	$(BIN)/python benchmarks/engine.py --dacbench-python $(DACBENCH)/bin/python
	$(BIN)/python benchmarks/pilot.py

POLICY := 'env.actions.learning_rate=[0.3,0.7,1.0,1.4,3.0,10.0]' agent.total_decisions=600000 \
  agent.n_workers=2
policy: $(VENV)/.installed
	$(BIN)/trainpilot train $(POLICY) 'env.actions.optimizers=[muon]' \
	  env.actions.learning_rate_ceiling=0.04 'env.actions.ema_decay=[0.25]' \
	  'env.actions.momentum=[2.0]' env.actions.momentum_floor=0.8 \
	  agent.normalise_observations=false \
	  '~suite.tasks.diabetes_mlp' '~suite.tasks.breast_cancer_mlp' '~suite.tasks.wine_mlp' \
	  hydra.run.dir=outputs/policy

policy-rate-only: $(VENV)/.installed
	$(BIN)/trainpilot train $(POLICY) 'env.actions.optimizers=[]' \
	  hydra.run.dir=outputs/policy-rate-only

clean:
	rm -rf $(VENV) $(DACBENCH) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
