# make demo    train and try it, on a synthetic corpus, in an environment of its own
# make test    quick tests in an environment of their own
# make bench   everything a user would run instead beside it, on the clock; hours
# make check   these, the slow ones, types and style, and the soak
# make soak    a pipeline at work for 20 minutes: same answers, no memory lost
# make audit   licences of all that is installed, and known weaknesses (which needs internet access)
PYTHON ?= python3
# What pip is told for torch: without a GPU, its CPU index saves gigabytes on Linux.
TORCH ?= torch
VENV ?= .venv
BIN = $(VENV)/bin
ENCODER = assets/all-MiniLM-L6-v2

.PHONY: demo test bench check soak lint audit build clean
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
	$(MAKE) soak

# The real encoder with random heads: nothing has to be trained for it.
soak: $(VENV)/.installed $(ENCODER)/model.safetensors
	$(BIN)/python -m tests.make_untrained $(ENCODER) training/soak
	$(BIN)/python benchmarks/soak.py training/soak/pipeline training/soak/texts.spacy --minutes 20 --output training/soak/soak.json

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

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
	rm -rf $(VENV) $(VENV)-audit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
