# `make` lists the targets. Each does its own set-up in .venv.

PYTHON  ?= python3
DATASET ?= digits
CORES   ?= all
GPUS    ?= $(shell command -v nvidia-smi > /dev/null && \
    $(PY) -c "import torch; print(torch.cuda.device_count())" || echo 0)

PY    := .venv/bin/python
READY := .venv/.installed

# How many tests run side by side: as many as there are cores for this process, four at most.
WORKERS = $(shell $(PY) -c "import joblib; print(min(4, joblib.cpu_count()))")

# Nothing is written to the home directory.
export IPYTHONDIR          := $(CURDIR)/.venv/home/ipython
export JUPYTER_CONFIG_DIR  := $(CURDIR)/.venv/home/jupyter/config
export JUPYTER_DATA_DIR    := $(CURDIR)/.venv/home/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.venv/home/jupyter/runtime
export MPLCONFIGDIR        := $(CURDIR)/.venv/home/matplotlib

.PHONY: help reproduce notebooks list test gpu-check lint coverage clean

help:
	@echo "make reproduce   train what is missing, then run every notebook (DATASET=digits CORES=all GPUS=<found>)"
	@echo "make notebooks   execute the committed notebooks in place, on what they are committed with"
	@echo "make list        what there is to train: done, missing, how long (DATASET=digits)"
	@echo "make test        ruff, the tests, and every notebook against its committed outputs"
	@echo "make gpu-check   checks and measures a GPU in four minutes, into one table"
	@echo "make lint        ruff (rules and format), and the types of the core"
	@echo "make coverage    the share of each package's lines that the tests run"
	@echo "make clean       remove what reproduce and test made; data/ and committed results stay"
	@echo
	@echo "The first call installs into .venv (PYTHON=python3, 3.11 to 3.13)."

# Four runs share a GPU: a LeNet leaves most of one idle. Snakemake's lock files outlive a kill -9,
# the Snakefile holds a lock that does not, hence --nolock. A job may train many runs: where one
# fails, the others are kept.
reproduce: $(READY)
	@echo "Reproducing on $(DATASET)"
	@$(PY) -m lib calibrate --once > /dev/null
	@gpus=$(GPUS); XDG_CACHE_HOME="$(CURDIR)/.venv/home/cache" \
	    $(PY) -m snakemake --cores $(CORES) --resources quarter=$$((4 * gpus)) \
	    --config dataset=$(DATASET) gpus=$$gpus --keep-going --keep-incomplete --rerun-incomplete \
	    --rerun-triggers mtime --nolock --scheduler greedy
	@echo "Everything is there"

notebooks: $(READY)
	@echo "Executing the committed notebooks"
	@OMP_NUM_THREADS=1 $(PY) -m nbconvert --to notebook --execute --inplace --log-level WARN \
	    --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

list: $(READY)
	@$(PY) -m lib list --dataset $(DATASET)

# One thread a process, since the processes are parallel; a notebook stays with one worker. What
# notebooks show is trained before, or they would wait for one another.
test: lint
	@echo "Training what the notebooks show, where it is missing"
	@$(PY) -m lib run --missing --dataset digits --device cpu --threads 1 --jobs $(WORKERS)
	@$(PY) -m lib run --missing --dataset imagenet-sample --device cpu --threads 1 --jobs $(WORKERS)
	@echo "Running the tests and the notebooks"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile \
	    --nbval --nbval-current-env tests notebooks

gpu-check: $(READY)
	@$(PY) -m lib gpu-check

lint: $(READY)
	@echo "Checking the style"
	@$(PY) -m ruff check --quiet --output-format concise .
	@$(PY) -m ruff format --quiet --check .
	@echo "Checking the types of the core"
	@$(PY) -m mypy

# Without what notebooks and other processes run: it says what the tests themselves reach.
coverage: $(READY)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile --cov=lib --cov-report= tests
	@$(PY) -m tests.coverage

clean:
	rm -rf results/digits results/imagenet-sample results/notebooks results/logs .snakemake
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find lib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# The stamp is written last and removed first: without it .venv is half made, and made anew.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || \
	    { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" 2> /dev/null || \
	    { echo "$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@if [ -e $@ ]; then echo "Updating .venv"; rm $@; \
	    else echo "Creating .venv"; $(PYTHON) -m venv --clear .venv; fi
	@echo "Installing requirements.txt (the first time some 3 GB are downloaded, minutes)"
	@$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	@echo "Installing lib"
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
