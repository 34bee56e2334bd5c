# `make` lists what there is to make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that the tests pass with; pyproject.toml allows newer ones.
TORCH ?= torch==2.14.1 torchvision==0.29.1
SYSTEM_PACKAGES := $(shell cat docker/system-packages.txt)
DEMO_DIR ?= runs/demo
ifndef SOURCE
SOURCE := $(DEMO_DIR)/train.beton
IMAGES := $(DEMO_DIR)/images/train
SIZE := 64
endif
SIZE ?= 224

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install check test demo bench docker system-packages

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

install: $(VENV)/installed ## create .venv with everything in it; system packages through apt-get when root

check: install ## lint, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# Some of the processes that share the cores wait for each other: while they wait they must not spin.
test: install ## all tests that this machine can run, in two processes [TESTS=folder or file]
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

demo: install ## make images, convert, pretrain, evaluate, plot: a few minutes on two cores [DEMO_DIR=folder]
	$(BIN)/simsiam demo --out $(DEMO_DIR)

bench: install ## loading speed: make bench SOURCE=folder or .beton [IMAGES=the folder, to compare] (else the demo's)
	@test -e $(SOURCE) || { echo "There is no $(SOURCE): run make demo first, or give SOURCE=."; exit 2; }
	$(BIN)/simsiam bench loader $(SOURCE) --backend auto,torch --size $(SIZE) \
	  $(if $(IMAGES),--images $(IMAGES) --baseline imagefolder-pil)

docker: ## build the training image
	docker build -f docker/Dockerfile -t simsiam .

system-packages:
	@missing=""; for package in $(SYSTEM_PACKAGES); do \
	  dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing \
	    || echo "apt-get failed; continuing without FFCV, which needs:$$missing"; \
	else \
	  echo "Missing system packages, without which FFCV can't be built:$$missing"; \
	fi

# The sources under the name they are installed as, for pyright.
build/types: Makefile
	mkdir -p build/types/simsiam
	for part in __init__.py __main__.py pipeline model kernels train; do ln -sfn ../../../$$part build/types/simsiam/$$part; done
	touch build/types

$(VENV)/installed: pyproject.toml Makefile docker/system-packages.txt | build/types
	@$(MAKE) --no-print-directory system-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e '.[dev,dali,imagenet,parquet]'
	PKG_CONFIG_PATH=$(CURDIR)/docker/ffcv:$$PKG_CONFIG_PATH $(BIN)/pip install -q -e '.[ffcv]' \
	  || echo "FFCV could not be built (see above); continuing without the ffcv backend; the torch backend reads .beton files, too, more slowly."
	touch $@
