# Reprise. `make help` explains; every target sets up what it needs, once, into .venv.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready
# UV=1 installs the same locks by uv, in seconds where pip takes minutes; uv must be on the PATH.
PIP    := $(if $(UV),uv pip install --python,) $(BIN)/python $(if $(UV),,-m pip install --disable-pip-version-check --no-compile) --quiet
# Compiles on all cores, where pip takes one; what cannot be compiled is a template.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true
VENV    = $(if $(UV),uv venv --quiet --seed --python $(PYTHON) .venv,$(PYTHON) -m venv .venv)

# Compiled files are kept whatever the environment says: to compile all tests anew takes each process ten seconds.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

# What may be said on the command line; a misspelt word would otherwise train something else.
VARIABLES := PYTHON TORCH_INDEX UV EXTRAS PAPER SCALE VARIANT SEEDS MINUTES DRY SWEEP STAGE FORMAT BASE FILE DATA ARXIV EXTRA FOLDER ARGS
# What each target reads of them, besides PYTHON, TORCH_INDEX and UV; it would pass over the others in silence.
reads-extras        := EXTRAS
reads-reproduce     := PAPER SCALE VARIANT SEEDS MINUTES DRY DATA EXTRA ARGS
reads-new           := PAPER ARXIV EXTRA ARGS
reads-test          := PAPER EXTRA ARGS
reads-test-all      := ARGS
reads-papers        := PAPER EXTRA ARGS
reads-report        := PAPER EXTRA ARGS
reads-check-results := PAPER EXTRA ARGS
reads-tune          := PAPER SCALE VARIANT DATA EXTRA ARGS
reads-counts        := PAPER ARGS
reads-register      := PAPER SCALE VARIANT DATA EXTRA ARGS
reads-replicate     := PAPER SCALE VARIANT MINUTES DATA EXTRA ARGS
reads-sweep         := PAPER SCALE VARIANT SEEDS SWEEP DATA EXTRA ARGS
reads-dashboard     := PAPER SCALE VARIANT ARGS
reads-export        := PAPER SCALE VARIANT STAGE FORMAT EXTRA ARGS
reads-logbook       := PAPER EXTRA ARGS
reads-pack          := PAPER SCALE VARIANT EXTRA ARGS
reads-unpack        := FILE EXTRA ARGS
reads-compare       := PAPER SCALE VARIANT SEEDS BASE ARGS
reads-confirm       := PAPER SCALE VARIANT DATA EXTRA ARGS
reads-verify        := FOLDER ARGS
reads-soak          := PAPER ARGS
reads-mutants       := PAPER ARGS
reads-full-scale    := PAPER ARGS
reads-bench         := PAPER ARGS
reads-gpu           := PAPER MINUTES ARGS
# A shell reads these values, and make itself does before each call of a shell: this comes before the first one. What
# either would act on is no name; ARGS alone are words of a shell. What a target reads may come from the environment too.
said      := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
read      := $(sort $(foreach goal,$(MAKECMDGOALS),$(reads-$(goal))))
found     := $(foreach v,$(read),$(if $(filter environment,$(firstword $(origin $(v)))),$(v)))
open      := (
close     := )
define newline


endef
acting    := ; & | < > ` ' " \ ! * ? $(open) $(close) $$
words     := $(filter-out ARGS PYTHON,$(filter $(VARIABLES),$(said)) $(found))
acts       = $(strip $(foreach c,$(acting),$(findstring $(c),$(value $(1)))) $(if $(findstring $(newline),$(value $(1))),line))
unsafe    := $(firstword $(foreach v,$(words),$(if $(call acts,$(v)),$(v))))
ifneq ($(unsafe),)
$(error $(unsafe) holds a character that a shell acts on; expected a name, or names with commas)
endif

TARGETS   := $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)
KEYS      := $(notdir $(basename $(wildcard conf/paper/*.yaml)))
nearest    = $(shell $(PYTHON) -c "import difflib, sys; \
	near = difflib.get_close_matches(sys.argv[1].casefold(), [w.casefold() for w in sys.argv[2:]], 1, 0.5); \
	print('; did you mean ' + next(w for w in sys.argv[2:] if w.casefold() == near[0]) + '?' if near else '')" $(call quoted,$(1)) $(2))
quoted     = '$(subst ','\'',$(1))'
wrong     := $(firstword $(filter-out $(VARIABLES),$(said)))
aimless   := $(firstword $(filter-out $(TARGETS) .venv/%,$(MAKECMDGOALS)))
unread    := $(if $(MAKECMDGOALS),$(firstword $(filter-out $(read) PYTHON TORCH_INDEX UV,$(said))))
ifneq ($(wrong),)
$(error $(wrong) is no variable of this Makefile$(call nearest,$(wrong),$(VARIABLES)); valid: $(VARIABLES))
endif
ifneq ($(aimless),)
$(error $(aimless) is no target$(if $(filter $(aimless),$(KEYS)),; did you mean PAPER=$(aimless)?,$(call nearest,$(aimless),$(TARGETS))); valid: $(TARGETS))
endif
ifneq ($(unread),)
$(error $(unread)=$($(unread)) would change nothing: make $(MAKECMDGOALS) reads $(if $(read),$(read),no variable))
endif
ifneq ($(and $(filter reproduce,$(MAKECMDGOALS)),$(if $(PAPER),,unnamed)),)
$(error name a paper, as in make reproduce PAPER=meal_v2, or PAPER=all; make papers tells what each asks. Papers: $(KEYS))
endif

# torch and torchvision as pyproject.toml pins them: no lock holds them, since hashes are those of one build.
TORCH  = $(shell sed -nE 's/^ *"(torch(vision)?==[0-9.]+)".*/\1/p' pyproject.toml)
LOCKED = $(patsubst requirements-%.lock,%,$(wildcard requirements-*.lock))

# SEEDS="0 1 2" and SEEDS="0, 1, 2" are SEEDS=0,1,2.
comma   := ,
nothing :=
space   := $(nothing) $(nothing)
seeds    = $(subst $(space),$(comma),$(strip $(subst $(comma),$(space),$(SEEDS))))
GIVEN    = $(if $(PAPER),paper=$(PAPER)) scale=$(or $(SCALE),mini) $(if $(VARIANT),variant=$(VARIANT)) $(if $(DATA),data=$(DATA)) $(OVERLAY) $(ARGS)
OVERLAY  = $(if $(EXTRA),extra=$(EXTRA))
# The tests of an overlay, and what every paper is asked, of its papers.
OF_EXTRA = --extra $(EXTRA) -c pyproject.toml --rootdir . tests/papers/test_every_paper.py $(wildcard $(EXTRA)/tests)

.DEFAULT_GOAL := help
.PHONY: help setup counts extras new reproduce tune register replicate test test-all papers report check-results sweep dashboard export logbook pack unpack compare confirm verify soak mutants bench gpu lint lock schema full-scale readme docs clean

##@ Set up
help: ## this text
	@echo "Reprise re-runs image-modelling papers and computes whether their claims hold. Begin with"
	@echo
	@echo "  make reproduce PAPER=meal_v2"
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Variables"
	@echo "  PAPER=meal_v2        a paper's key, or all; make papers lists them"
	@echo "  SCALE=mini           the default, for two CPU cores; smoke (seconds); full (the published recipe)"
	@echo "                       or, for some papers, lab (CIFAR, one consumer GPU, some hours)"
	@echo "  VARIANT=clean        a variation that the paper's file names"
	@echo "  DATA=cifar10         other labelled images in place of the paper's"
	@echo "  MINUTES=15           start no further seed after that many minutes"
	@echo "  SEEDS=0,1            these seeds by hand, in an entry of its own"
	@echo "  DRY=1                with SCALE=full: what it needs and how long it takes; trains nothing"
	@echo "  EXTRA=../mine        a folder of your own, with papers, arms, data and what is found with it"
	@echo "  ARGS=\"...\"           anything else, as .venv/bin/python -m experiments.reproduce --help lists it"

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; call make with PYTHON=/path/to/python3.11 or newer"; exit 2; }
	@test -z "$(UV)" || command -v uv > /dev/null \
		|| { echo "error: UV=$(UV): uv is not on the PATH; see https://docs.astral.sh/uv, or leave UV out"; exit 2; }
	@echo "setting up .venv, once: 1.7 GB with torch for CPUs, several more with CUDA's libraries; some minutes"
	@test -x $(BIN)/python || $(VENV)
	@awk '/^setuptools==/ {on = 1} on; on && !/\\$$/ {exit}' requirements.lock > .venv/build.lock
	@$(PIP) --require-hashes --no-deps --requirement .venv/build.lock
	@echo "1 of 3: $$(grep -c '^[a-z]' requirements.lock) packages by their hashes"
	@$(PIP) --require-hashes --no-deps --no-build-isolation --requirement requirements.lock
	@echo "2 of 3: $(TORCH), the largest part, in this machine's build"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH) # from one index alone
	@echo "3 of 3: this project itself"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(COMPILE)
	@touch $@

setup: $(READY) ## create .venv with what is needed (UV=1: by uv; TORCH_INDEX=: source of torch)

extras: $(READY) ## for some full recipes: EXTRAS=attacks,clip,diffusion,mlflow,ray,trackio
	@test -n "$(EXTRAS)" || { echo "error: name some, as in make extras EXTRAS=clip; there are: $(LOCKED)"; exit 2; }
	@for extra in $(subst $(comma),$(space),$(EXTRAS)); do \
		test -f requirements-$$extra.lock || { echo "error: no extra $$extra; there are: $(LOCKED)"; exit 2; }; \
		$(PIP) --require-hashes --no-deps --only-binary :all: --requirement requirements-$$extra.lock || exit 1; done
	@$(COMPILE)

##@ Judge a claim
reproduce: $(READY) ## train method and baselines until the main claim is decided; print verdicts
	@$(BIN)/python -m experiments.reproduce $(if $(MINUTES),minutes=$(MINUTES)) $(if $(SEEDS),seeds=[$(seeds)]) \
		$(if $(DRY),dry=true) $(GIVEN)

tune: $(READY) ## one grid for all arms that the main claim compares, on validation data
	@$(BIN)/python -m experiments.commands.tune $(GIVEN)

register: $(READY) ## fix claims, recipe, code and data in a commit before the first seed
	@$(BIN)/python -m experiments.commands.register $(GIVEN)

replicate: $(READY) ## the main claim again, on fresh seeds that each draw a recipe of their own
	@$(BIN)/python -m experiments.commands.replicate $(if $(MINUTES),minutes=$(MINUTES)) $(GIVEN)

new: $(READY) ## a room for a paper: PAPER=mixup ARXIV=1710.09412 EXTRA=../mine
	@$(BIN)/python -m experiments.commands.new $(if $(PAPER),paper=$(PAPER)) $(if $(ARXIV),arxiv=$(ARXIV)) $(OVERLAY) $(ARGS)

##@ Test
test: $(READY) ## what belongs before each commit (minutes); PAPER=K: only what its files reach
	@$(PYTEST) -m "not slow" $(if $(PAPER),--paper $(PAPER)) $(if $(EXTRA),$(OF_EXTRA)) $(ARGS)

test-all: $(READY) ## all tests: also full recipes' dry runs, kills, sweeps, devices (half an hour)
	@$(PYTEST) $(ARGS)

##@ Read what was found
papers: $(READY) ## every paper: main claim, verdict, cost; PAPER=K: claims, stages, variants
	@$(BIN)/python -m experiments.catalog $(if $(PAPER),paper=$(PAPER)) $(OVERLAY) $(ARGS)

report: $(READY) ## the index of all papers, site/index.html, and a page for each
	@$(BIN)/python -m experiments.commands.report $(if $(PAPER),paper=$(PAPER)) $(OVERLAY) $(ARGS)

check-results: $(READY) ## derive every recorded interval, verdict and table again from the seeds
	@$(BIN)/python -m experiments.commands.check_results $(if $(PAPER),paper=$(PAPER)) $(OVERLAY) $(ARGS)

counts: $(READY) ## sizes of full recipes' networks beside those in papers' tables
	@$(BIN)/python -m experiments.commands.counts $(if $(PAPER),paper=$(PAPER)) $(ARGS)

##@ Sweeps, dashboards, other machines
sweep: $(READY) ## a named sweep (SWEEP=hard_labels) or a grid (ARGS="seed=0,1 ...")
	@$(BIN)/python -m experiments.run -m $(if $(SWEEP),sweep=$(SWEEP)) $(if $(SEEDS),seed=$(seeds)) $(GIVEN)

dashboard: $(READY) ## send a paper's offline W&B runs and build its workspace there
	@$(BIN)/python -m experiments.commands.dashboard $(GIVEN)

export: $(READY) ## a stage's weights (STAGE=student), or the record (FORMAT=csv, latex)
	@$(BIN)/python -m experiments.commands.export $(if $(STAGE),stage=$(STAGE)) $(if $(FORMAT),format=$(FORMAT)) $(GIVEN)

logbook: $(READY) ## a paper's record for others, claim by claim, with an RO-Crate (exports/)
	@$(BIN)/python -m experiments.commands.logbook $(if $(PAPER),paper=$(PAPER)) $(OVERLAY) $(ARGS)

pack: $(READY) ## a setting's runs, finished or not, in one file to go on with elsewhere
	@$(BIN)/python -m experiments.commands.pack $(GIVEN)

unpack: $(READY) ## go on with packed runs in this clone: FILE=exports/K-mini.runs
	@$(BIN)/python -m experiments.commands.unpack $(if $(FILE),file=$(FILE)) $(OVERLAY) $(ARGS)

##@ After a change of the code; others' work
compare: $(READY) ## which numbers a change of the code moved: BASE=main PAPER=K1,K2
	@$(BIN)/python -m experiments.commands.compare $(if $(BASE),base=$(BASE)) $(if $(PAPER),paper=$(PAPER)) \
		scale=$(or $(SCALE),smoke) $(if $(VARIANT),variant=$(VARIANT)) $(if $(SEEDS),seeds=$(seeds)) $(ARGS)

confirm: $(READY) ## does the code still give a stale record? Runs one recorded seed again
	@$(BIN)/python -m experiments.commands.confirm $(if $(PAPER),paper=$(PAPER)) $(if $(SCALE),scale=$(SCALE)) \
		$(if $(VARIANT),variant=$(VARIANT)) $(if $(DATA),data=$(DATA)) $(OVERLAY) $(ARGS)

verify: $(READY) ## check somebody else's overlay, without running its code: FOLDER=../theirs
	@$(BIN)/python -m experiments.commands.verify $(if $(FOLDER),folder=$(FOLDER)) $(ARGS)

##@ Faults, speed, upkeep
soak: $(READY) ## is anything lost? Kills, corrupts, refuses, races and fills the disk (minutes)
	@$(BIN)/python -m tests.reliability.soak $(if $(PAPER),paper=$(PAPER)) $(ARGS)

mutants: $(READY) ## would the tests of PAPER=K notice wrong code? 100 changes, in a copy
	@$(BIN)/python -m tests.mutants $(if $(PAPER),paper=$(PAPER)) $(ARGS)

bench: $(READY) ## speed beside plain PyTorch; PAPER=K: its networks beside independent ones
	@$(BIN)/python -m experiments.benchmarks.networks $(if $(PAPER),paper=$(PAPER)) $(ARGS)

gpu: $(READY) ## does everything run on this machine's GPU, and how fast? Ten minutes at a time
	@$(BIN)/python -m experiments.benchmarks.gpu $(if $(PAPER),paper=$(PAPER)) $(if $(MINUTES),minutes=$(MINUTES)) $(ARGS)

lint: $(READY) ## style, format, types, unsafe calls, and installed packages against the lock
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pip check
	@$(BIN)/python -m experiments.commands.lock

lock: $(READY) ## write requirements.lock from pyproject.toml's ranges (needs uv, a network)
	@$(BIN)/python -m experiments.commands.lock --write

schema: $(READY) ## write conf/schema/*.json, by which editors complete and check YAML
	@$(BIN)/python -m experiments.commands.schema

full-scale: $(READY) ## write docs/full/: what each published recipe needs and is judged by
	@$(BIN)/python -m experiments.commands.full_scale $(if $(PAPER),paper=$(PAPER)) $(ARGS)

readme: $(READY) ## write what README and docs/ repeat of the records
	@$(BIN)/python -m experiments.catalog --readme

.venv/.docs: $(READY) requirements-docs.lock
	@$(MAKE) --no-print-directory extras EXTRAS=docs
	@touch $@

docs: .venv/.docs ## the documentation as pages that need no network: site/docs/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

clean: ## remove what runs and reports wrote (not .venv, not results/)
	@rm -rf runs site
