# Needs make and Python 3.11 or newer; everything else is installed into $(VENV).
# On Linux PyPI's torch is a CUDA build. For a CPU build:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
# and for another CUDA version its index, for example https://download.pytorch.org/whl/cu126.
PYTHON ?= python3
VENV ?= .venv
READY = $(VENV)/installed

.PHONY: demo test test-all fuzz lint docs studies figures
# Diagnose the bundled digits in one to two minutes, and name the files to look at.
demo: $(READY)
	@echo 'eb-analyze diagnose --steps 20 -o demo    (the bundled digits model; one to two minutes)'
	@$(VENV)/bin/eb-analyze diagnose --steps 20 -o demo --quiet
	@echo; for file in demo/report.html demo/diagnose.png; do [ ! -e $$file ] || echo "wrote $$file"; done

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2

# With those that take a minute each.
test-all: $(READY)
	$(VENV)/bin/python -m pytest -n 2 -m ''

# Hostile data at full size, forged recordings, and nineteen further kinds of hostile input, each with time and peak memory;
# half an hour, 4 GB of disk.
fuzz: $(READY)
	$(VENV)/bin/python tests/fuzz/longer.py
	$(VENV)/bin/python tests/fuzz/hostile.py

# Every study of analyses/, resumable, then the table of docs/results.md; `make figures` draws what is in results/. The
# thresholds have glibc keep freed memory, as eb-analyze does: networks run faster, the numbers are the same.
studies: $(READY)
	OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824 $(VENV)/bin/python analyses/studies.py
	$(VENV)/bin/python analyses/results_table.py

figures: $(READY)
	$(VENV)/bin/python figures/all.py

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The site, with its tutorials run; whatever Sphinx warns of fails it.
docs: $(VENV)/installed-docs
	rm -rf build/docs build/site
	$(VENV)/bin/python -m sphinx -q -W --keep-going docs build/site
	@mv build/site build/docs
	@echo 'wrote build/docs/index.html'

$(VENV)/installed-docs: $(READY)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[docs]'
	@touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV), which takes a few minutes the first time'
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
