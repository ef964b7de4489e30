# Two commands: `make demo` and `make test`. `make help` lists the rest. Everything stays in this folder.

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types tests nightly format serve replay bench claims lock clean
.DELETE_ON_ERROR:

# cpu or cuda; once set up, what was set up.
ACCELERATOR ?= $(patsubst .venv/.setup-%,%,$(firstword $(wildcard .venv/.setup-*) .venv/.setup-cpu))
STAMP := .venv/.setup-$(ACCELERATOR)
PY := .venv/bin/python

# The main job: a simulated world, or a log of your own (LOGS=path READER=globo|longplay).
PRESET ?= nano
WORLD ?= clickbait
READER ?= $(if $(LOGS),longplay)
DEMO := runs/demo$(if $(READER),-$(READER))$(if $(filter-out clickbait,$(WORLD)),-$(WORLD))
RUN ?= $(DEMO)$(if $(filter-out nano,$(PRESET)),-$(PRESET))
# A bigger model's report says what it changed, so nano goes the same road first (or is found unchanged).
BESIDE := $(if $(filter-out nano,$(PRESET)),$(if $(filter file,$(origin RUN)),$(DEMO),$(RUN)-nano))
SOURCE := $(if $(LOGS),--logs "$(LOGS)" --reader $(READER),--world $(WORLD))
SEEDS ?= 3
NAME ?=

export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PYTHONUNBUFFERED = 1
# Without their bytecode torch, transformers and vLLM take twice as long to import, in every process.
unexport PYTHONDONTWRITEBYTECODE

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-9s %s\n' "$$name" "$$what"; done

setup: $(STAMP)  ## .venv with the pinned stack (ACCELERATOR=cuda for a GPU machine, PYTHON=... for another Python)

# The first Python that is new enough; it only has to make the virtual environment.
$(STAMP): requirements.lock pyproject.toml
	@for python in $(PYTHON) $(if $(PYTHON),,python3 python3.13 python3.12 python3.11); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec "$$python" scripts/setup.py --accelerator $(ACCELERATOR); \
	    fi; \
	done; echo "error: no Python 3.11 or later found: install one, or make setup PYTHON=/path/to/python3" >&2; exit 2

demo: $(STAMP)  ## the whole road, from logs to report (LOGS= READER= PRESET=nano|smollm2 WORLD= RUN=)
	@$(if $(BESIDE),$(PY) scripts/run.py --run $(BESIDE) --preset nano $(SOURCE),:)
	@$(PY) scripts/run.py --run $(RUN) --preset $(PRESET) $(SOURCE) $(if $(BESIDE),--compare $(BESIDE))

# All parts run, whatever the first ones say; the seconds of each come last.
test: $(STAMP)  ## lint, types and all tests
	@status=0; took=; all=$$(date +%s); \
	part() { name=$$1; shift; began=$$(date +%s); "$$@" && verdict=ok || { verdict=FAILED; status=1; }; \
	    took="$$took$$(printf '  %-8s %5d s  %s' "$$name" $$(( $$(date +%s) - began )) "$$verdict")\n"; }; \
	part lint $(MAKE) --no-print-directory lint; \
	part types $(MAKE) --no-print-directory types; \
	part tests $(MAKE) --no-print-directory tests; \
	printf "\nmake test: where the time went\n$$took  in all   %5d s\n" $$(( $$(date +%s) - all )); exit $$status

lint: $(STAMP)  ## ruff: rules and layout
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: $(STAMP)  ## mypy, strict
	@$(PY) -m mypy

# One process a core, each on one thread; what is costly to set up stays in one of them (tests/conftest.py).
tests: $(STAMP)  ## pytest, without the nightly tests
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not nightly" -n $(OMP_NUM_THREADS) --no-loadscope-reorder \
	    --durations=15 $(ARGS)

nightly: $(STAMP)  ## the tests that take minutes
	@$(PY) -m pytest -q -m nightly --timeout=3600 --durations=15 $(ARGS)

format: $(STAMP)  ## mend what ruff can mend
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

serve: $(STAMP)  ## vLLM and the gateway on a finished run (RUN=)
	@$(PY) scripts/serve.py --run $(RUN) $(ARGS)

replay: $(STAMP)  ## what was served becomes part of the run's log (RUN=)
	@$(PY) scripts/replay.py --run $(RUN)

bench: $(STAMP)  ## the numbers to hold (NAME=trie, ope, ... for one of them)
	@$(PY) scripts/bench.py $(NAME) $(ARGS)

claims: $(STAMP)  ## what is claimed, over worlds and seeds (WORLD= SEEDS=)
	@$(PY) scripts/claims.py --world $(WORLD) --seeds $(SEEDS) $(ARGS)

# One lock for CPU machines of any Python from 3.11 on. +cpu is left off the torch pin: which build is scripts/setup.py's
# to say, by machine. The CUDA packages are those of platforms that we do not support. triton (1 GB unpacked) and OpenCV
# are asked for by vLLM and, on a CPU and for text, never loaded.
lock: $(STAMP)  ## resolve requirements.lock anew from pyproject.toml
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" .venv/bin/uv pip compile pyproject.toml --group weights \
	    --extra serve-cpu --extra ray --extra redis --extra sources --extra sentences --extra dev --universal --python-version 3.11 --upgrade --quiet \
	    --no-annotate --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.resolved
	@{ echo "# The whole stack, complete: \`make lock\` resolves it from pyproject.toml, \`make setup\` installs it as it is."; \
	    sed -e "/'never'/d" -e "/; sys_platform == 'win32'$$/d" -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^torch==[^+]*$$/d' \
	        -e '/^triton==/d' -e '/^opencv-/d' -e 's/^torch==\(.*\)+cpu.*/torch==\1/' requirements.resolved; } > requirements.lock
	@rm requirements.resolved

clean:  ## everything that was made here: runs, .venv, caches
	rm -rf runs .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find data rewards policy eval scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
