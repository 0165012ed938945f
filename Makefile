# make help lists the targets. Each of them makes .venv and installs what it needs, once.
#   PYTHON=python3.12   which Python makes .venv (only while there is none)
#   ACCEL=cpu           cpu, cuda12 or cuda13, in place of what nvidia-smi reports
#   ARGS="-k plan -x"   further arguments for demo, test and bench
#   JOBS=4              processes that run the tests side by side; each takes up to 2 GB

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The header of nvidia-smi names the newest CUDA that the driver can run. No nvidia-smi, no driver or a CUDA before 12: cpu.
ifndef ACCEL
CUDA_MAJOR := $(shell nvidia-smi 2>/dev/null </dev/null | sed -n 's/.*CUDA[A-Za-z ]*Version *: *\([0-9][0-9]*\).*/\1/p' | head -n 1)
ACCEL := $(shell if [ "$(CUDA_MAJOR)" -ge 13 ] 2>/dev/null; then echo cuda13; \
	elif [ "$(CUDA_MAJOR)" = 12 ]; then echo cuda12; else echo cpu; fi)
ACCEL_REASON := $(if $(CUDA_MAJOR),nvidia-smi reports CUDA $(CUDA_MAJOR),nvidia-smi reports no CUDA)
else
ACCEL_REASON := as asked
endif
ifeq ($(filter cpu cuda12 cuda13,$(ACCEL)),)
$(error ACCEL must be cpu, cuda12 or cuda13, but is '$(ACCEL)'. Leave it out to let nvidia-smi decide)
endif

# The DALI builds for CUDA 12 and CUDA 13 share one folder: the other one has to go before ours comes.
OTHER_CUDA := $(if $(filter cuda12,$(ACCEL)),nvidia-dali-cuda130 cupy-cuda13x,nvidia-dali-cuda120 cupy-cuda12x)

# One empty file for each set of extras installed; a change to what is asked for makes it old.
STAMP := $(VENV)/.installed-$(ACCEL)

.NOTPARALLEL:
.PHONY: help demo test test-all lint format bench soak gpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
	@echo "ACCEL=$(ACCEL) ($(ACCEL_REASON))"

demo: $(STAMP)-demo  ## train a small network on augmented digits
	$(BIN)/gpuload demo $(ARGS)

test: $(STAMP)-test  ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: test  ## run the tests, then the slow ones: all kernels, sanitizers, backends, benchmarks
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

lint: $(STAMP)-test  ## check style, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(STAMP)-test  ## repair style and format
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(STAMP)-bench  ## measure images, epochs, start and growth, windows, delivery, Keras' fit, the cost of error handling
	$(BIN)/python -m benchmarks.images $(ARGS)
	$(BIN)/python -m benchmarks.warm $(ARGS)
	$(BIN)/python -m benchmarks.epochs
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.windows
	$(BIN)/python -m benchmarks.delivery
	$(BIN)/python -m benchmarks.fit
	$(BIN)/python -m benchmarks.overhead

soak: $(STAMP)-bench  ## kill and resume, damage files, and watch the memory of long runs
	$(BIN)/python -m benchmarks.resume
	$(BIN)/python -m benchmarks.mutated
	$(BIN)/python -m benchmarks.memory

# Before anything is installed: torchvision, which only this target needs, may not fit beside a PyTorch without CUDA.
.PHONY: a-gpu
a-gpu:
	@if [ "$(ACCEL)" = cpu ]; then echo "make gpu needs an NVIDIA GPU: $(ACCEL_REASON)" >&2; exit 1; fi

gpu: a-gpu $(STAMP)-proof  ## on a GPU: test and measure all that needs one, within 8 minutes
	$(BIN)/python -m benchmarks.gpu $(ARGS)

clean:  ## remove caches, build output and the demo's files; .venv stays
	rm -rf build dist gpuload-demo .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage
	find gpuload tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The last thing that venv writes is pip, so a venv that was cut short is made again.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(STAMP)-%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "ACCEL=$(ACCEL) ($(ACCEL_REASON)): installing .[$(ACCEL),$*] into $(VENV)"
	@$(PIP) uninstall -qq -y $(OTHER_CUDA)
	$(PIP) install -c constraints.txt -e ".[$(ACCEL),$*]"
	@for stamp in $(VENV)/.installed-*; do \
		case $$stamp in $(STAMP)-*) ;; *) rm -f "$$stamp" ;; esac; \
	done
	@touch $@
