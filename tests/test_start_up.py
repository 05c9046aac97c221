"""The factory is imported by every spacy.blank() on the user's machine."""

import subprocess
import sys

import pytest

from tests.makers.pipelines import train_small
from tests.makers.project import OTHERS, hiding
from tests.makers.texts import TEXTS

NAME = "early_exit_ner"


def run(script: str, *arguments) -> str:
    command = [sys.executable, *arguments, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "Warning" not in found.stderr, "those of destructors end no process"
    return found.stdout.strip()


def test_importing_the_package_imports_nothing_slow():
    script = (
        "import spacy, sys; before = set(sys.modules); import spacy_early_exit.pipe.component;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    assert run(script) in ("['numpy', 'spacy_early_exit']", "['spacy_early_exit']")


# spaCy imports all packages that have components. One of them, where it is installed, makes
# functions with torch.jit.script as it is imported, and torch warns of that: this one warning at
# this one import is let pass.
LET_PASS = """
import importlib.util, warnings
if importlib.util.find_spec("curated_transformers"):
    with warnings.catch_warnings():
        about = "`torch.jit.script` is deprecated"
        warnings.filterwarnings("ignore", about, DeprecationWarning, "torch.jit._script")
        import curated_transformers.models
"""


@pytest.mark.takes(seconds=15)
@pytest.mark.parametrize(
    "stage", ["JointTraining", pytest.param("SelfSampling", marks=pytest.mark.slow)]
)
def test_importing_predicting_and_training_warn_of_nothing(stage, encoders, tmp_path):
    training = {"@misc": f"spacy-early-exit.{stage}.v1"}
    train_small(encoders["bert"], steps=1, training=training).to_disk(tmp_path)
    script = f"""{LET_PASS}
import importlib, pkgutil
import spacy, spacy_early_exit
from spacy.training import Example
for module in pkgutil.walk_packages(spacy_early_exit.__path__, "spacy_early_exit."):
    try:
        importlib.import_module(module.name)
    except ImportError as e:
        assert "pip install 'spacy-early-exit[" in str(e), e
nlp = spacy.load({str(tmp_path)!r})
for quantize in (None, "int8"):
    nlp.get_pipe({NAME!r}).quantize = quantize
    docs = list(nlp.pipe({TEXTS!r}, component_cfg={{{NAME!r}: {{"threshold": 0.3}}}}))
    print(len([doc._.early_exit[{NAME!r}] for doc in docs]))
given = {{"entities": [(0, 3, "PER")]}}
examples = [Example.from_dict(nlp.make_doc("Ann lives in Oslo."), given)]
optimizer = nlp.resume_training()
optimizer.learn_rate = 1e-4
nlp.update(examples, sgd=optimizer)
nlp.evaluate(examples)
nlp.from_bytes(nlp.to_bytes()).to_disk({str(tmp_path / "again")!r})
"""
    assert run(script, "-W", "error").split() == [str(len(TEXTS))] * 2


@pytest.mark.parametrize("hidden", ["", hiding("spacy_early_exit")])
def test_what_is_registered_is_not_imported(hidden):
    script = (
        "import spacy, sys, spacy_early_exit;"
        "print(*(name for name in sys.modules if name.startswith('spacy_early_exit.')))"
    )
    loaded = {name.split(".")[1] for name in run(hidden + script).split()}
    slow = {"adopt", "criteria", "decoders", "encoders", "measure", "model"}
    slow |= {"relatives", "training"}
    assert "pipe" in loaded and not loaded & slow


@pytest.mark.parametrize(
    "family", ["bert", "mpnet", pytest.param("deberta-v2", marks=pytest.mark.slow)]
)
def test_loading_and_predicting_import_no_compiler(family, encoders, tmp_path):
    train_small(encoders[family], steps=1).to_disk(tmp_path)
    script = f"""
import spacy, sys
nlp = spacy.load({str(tmp_path)!r})
for quantize in (None, "int8"):
    nlp.get_pipe({NAME!r}).quantize = quantize
    list(nlp.pipe({TEXTS!r}, component_cfg={{{NAME!r}: {{"threshold": 0.3}}}}))
print(*({{"torch._dynamo", "sympy", "transformers"}} & {{*sys.modules}}))
"""
    assert run(hiding(*OTHERS) + script) == ""


@pytest.mark.slow
def test_blank_costs_little_more():
    # Alternating, since the machine may have other work: the median of the differences.
    script = "import time, spacy; t = time.time(); spacy.blank('en'); print(time.time() - t)"
    without = hiding(*OTHERS, "spacy_early_exit") + script
    with_it = hiding(*OTHERS) + script
    differences = sorted(float(run(with_it)) - float(run(without)) for _ in range(5))
    print(differences)
    assert differences[2] < 0.3
