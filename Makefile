# make demo    train and try it, on a synthetic corpus, in an environment of its own
# make test    quick tests in an environment of their own; some cases of each
# make durations   how long the quick tests take, on an idle machine: writes tests/durations.json, their order and cases
# make bench   everything a user would run instead beside it, on the clock; hours
# make check   these, the slow ones, types and style, and the soak. Fetches an encoder of 12 layers, 420 MB
# make soak    a pipeline at work for 20 minutes: same answers, no memory lost
# make fuzz    any Unicode, cut and marked anyhow, through small networks for half an hour
# make mutants   small errors in the code, one at a time: which of them no quick test notices; an hour
# make versions   the quick tests with the oldest and the newest releases that are supported; and whether other
#                 Pythons find all they need. Hours; how to look at one alone: make versions-oldest
# make coverage    which lines the quick tests run: fails under 95 %; longer than make test
# make docs    the pages of docs/ as a site, in site/: any broken link fails
# make reference   writes docs/reference/settings.md and commands.md, from docstrings and help texts
# make audit   licences of all that is installed, and known weaknesses: fails where it can't ask for those
PYTHON ?= python3
# What pip is told for torch: without a GPU, its CPU index saves gigabytes on Linux.
TORCH ?= torch
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
INSTALL ?= --editable '.[demo,test,dev,trf]'
BIN = $(VENV)/bin
# Of make coverage: all, if empty.
TESTS ?=
ENCODER = assets/all-MiniLM-L6-v2

.PHONY: demo test durations bench check fuzz soak mutants versions versions-oldest versions-newest versions-pythons lint coverage docs reference audit build clean
demo: $(VENV)/.installed
	$(BIN)/python -m spacy project run demo .

test: $(VENV)/.installed $(ENCODER)/model.safetensors
	$(BIN)/python -m pip list --format=freeze | grep -E '^(spacy|thinc|transformers|tokenizers|torch)'
	$(BIN)/python -m pytest -rs -n 2 --dist loadfile --within 3 --durations=20

durations: $(VENV)/.installed $(ENCODER)/model.safetensors
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --within 3 --write-durations

# What `project run train` leaves behind. Results go to training/bench.json, with a figure beside them.
bench: $(VENV)/.installed
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) onnx onnxruntime openvino nncf ctranslate2
	$(BIN)/python -m benchmarks.speed.everything corpus training/final $(ENCODER) training/bench training/bench.json

check: $(VENV)/.installed $(ENCODER)/model.safetensors assets/all-mpnet-base-v2/model.safetensors lint
	$(BIN)/python -m pytest -rs --slow -n 2 --dist loadfile
	$(MAKE) soak

fuzz: $(VENV)/.installed
	$(BIN)/python -m benchmarks.robustness.fuzz --minutes 30 --output training/fuzz.json

# The real encoder with random heads: nothing has to be trained for it.
soak: $(VENV)/.installed $(ENCODER)/model.safetensors
	$(BIN)/python -m tests.makers.untrained $(ENCODER) training/soak
	$(BIN)/python -m benchmarks.robustness.soak training/soak/pipeline training/soak/texts.spacy --minutes 20 --output training/soak/soak.json

# In place: mutmut copies all of it to mutants/ first. What it has found is not run again; rm -r mutants to start anew.
mutants: $(VENV)/.installed
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) mutmut==3.8.1
	OMP_NUM_THREADS=1 $(BIN)/python -m mutmut run --max-children 2
	$(BIN)/python -m benchmarks.robustness.mutants --output training/mutants.json

versions: versions-oldest versions-newest versions-pythons

# Anew each time: what is newest changes.
versions-oldest:
	rm -rf $(VENV)-oldest
	$(MAKE) test VENV=$(VENV)-oldest CONSTRAINTS=constraints-oldest.txt

# Not [trf] as a whole: spacy-transformers has no release for the newest transformers. Its tests are skipped.
versions-newest:
	rm -rf $(VENV)-newest
	$(MAKE) test VENV=$(VENV)-newest CONSTRAINTS=constraints-newest.txt \
		INSTALL="--editable '.[demo,test,dev]' 'spacy-curated-transformers<0.4'"

versions-pythons: $(VENV)/.installed
	$(BIN)/python scripts/other_pythons.py 3.10 3.12 3.13

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: $(VENV)/.installed $(ENCODER)/model.safetensors
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -rs -n 2 --dist loadfile $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# A part of the environment that nothing else needs.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(VENV)/.installed
	$(BIN)/python scripts/write_reference.py

audit: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit==2.10.1 pip-licenses==5.5.5
	$(VENV)-audit/bin/pip-licenses --python $(BIN)/python --order license --partial-match --fail-on "GPL;General Public"
	$(BIN)/python -m pip list --exclude-editable --format=freeze | sed 's/+.*//' > $(VENV)-audit/installed.txt
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)-audit/installed.txt

build: $(VENV)/.installed
	$(BIN)/python -m build --outdir dist .

$(VENV)/.installed: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --upgrade pip
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) $(TORCH)
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) $(INSTALL)
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable '.[docs]'
	touch $@

assets/%/model.safetensors: | $(VENV)/.installed
	$(BIN)/python scripts/fetch_encoder.py assets/$*

clean:
	rm -rf $(VENV) $(VENV)-audit $(VENV)-oldest $(VENV)-newest build dist mutants site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
