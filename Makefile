# make demo    train and try it, on a synthetic corpus, in an environment of its own
# make test    quick tests in an environment of their own
# make bench   everything a user would run instead beside it, on the clock; hours
# make check   these, the slow ones, types and style
# make coverage    which lines the quick tests run: fails under 95 %; longer than make test
# make audit   licences of all that is installed, and known weaknesses (which needs internet access)
PYTHON ?= python3
# What pip is told for torch: without a GPU, its CPU index saves gigabytes on Linux.
TORCH ?= torch
VENV ?= .venv
BIN = $(VENV)/bin
# Of make coverage: all, if empty.
TESTS ?=
ENCODER = assets/all-MiniLM-L6-v2

.PHONY: demo test bench check lint coverage audit build clean
demo: $(VENV)/.installed
	$(BIN)/python -m spacy project run demo .

test: $(VENV)/.installed $(ENCODER)/model.safetensors
	$(BIN)/python -m pytest -rs -n 2 --dist loadscope

# What `project run train` leaves behind. Results go to training/bench.json, with a figure beside them.
bench: $(VENV)/.installed
	$(BIN)/python -m pip install onnx onnxruntime
	$(BIN)/python benchmarks/everything.py corpus training/final $(ENCODER) training/bench training/bench.json

check: $(VENV)/.installed $(ENCODER)/model.safetensors lint
	$(BIN)/python -m pytest -rs --slow -n 2 --dist loadscope

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: $(VENV)/.installed $(ENCODER)/model.safetensors
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -rs -n 2 --dist loadscope $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

audit: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit==2.10.1 pip-licenses==5.5.5
	$(VENV)-audit/bin/pip-licenses --python $(BIN)/python --order license --partial-match --fail-on "GPL;General Public"
	$(VENV)-audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

build: $(VENV)/.installed
	$(BIN)/python -m build --outdir dist .

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[demo,test,dev,trf]'
	touch $@

$(ENCODER)/model.safetensors: $(VENV)/.installed
	$(BIN)/python scripts/fetch_encoder.py $(ENCODER)

clean:
	rm -rf $(VENV) $(VENV)-audit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
