"""Mutation testing: make small errors in the code, one at a time, and see whether tests notice.

    python scripts/mutate.py mutants.json --count 150 --seed 0
    python scripts/mutate.py again.json --again mutants.json    # those that survived, once more

Code of our own, since mutmut and cosmic-ray start a pytest for every mutant, or have one go on
with modules that are imported already. The first imports torch, spaCy and transformers each time,
longer than most of these tests take. The second does not reach names that other modules have
imported from the mutated one. Here a process that has imported all but this package forks for
every mutant; the child's import of the one module gets the mutated code, and pytest runs in it.

What is never mutated: annotations, decorators, docstrings, and what errors say. Some assignments
are deleted as well, but only where the name has another value: anything else is no test.
"""

import argparse
import ast
import gc
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any, Iterator, Optional

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "spacy_early_exit"

# What ought to notice, the quickest first: fast tests only, so that all mutants take minutes.
_ORACLE = "tests/network/test_oracle.py::test_fast_loop_equals_reference"
_STAGES, _REDUCING = (
    "tests/training/test_stages.py::test_",
    "tests/relatives/test_reduction_training.py",
)
_COST, _CALIBRATING = "tests/network/test_cost.py::test_", "tests/budget/test_calibration.py::"
_CRITERIA, _REDUCTION = "tests/criteria/test_", "tests/relatives/test_reduction_exit.py"
_NETWORK = [
    f"{_REDUCING}::test_a_batch_repeated_is_that_of_its_windows_repeated",
    f"{_REDUCING}::test_copies_that_branch_late_are_as_if_each_had_run_from_the_start",
    f"{_COST}full_depth_has_a_closed_form",
    f"{_COST}unless_told_otherwise_what_left_is_attended_to_and_special_tokens_stay",
    f"{_STAGES}without_halting_it_is_joint_training",
    f"{_STAGES}detached_early_heads_learn_and_leave_the_encoder_alone",
    f"{_STAGES}heads_answer_for_words_that_left_from_the_state_they_kept",
    f"{_STAGES}training_sees_what_prediction_will_see_whatever_becomes_of_what_left",
    _REDUCTION,
    f"{_STAGES}gradients_flow_through_kept_states_as_in_the_plain_loop",
    "tests/network/test_oracle.py::test_full_depth_gives_hugging_faces_own_states[bert]",
    "tests/network/test_oracle.py::test_dropout_reaches_every_part_and_is_off_without_it",
    f"{_ORACLE}[bert-0.2-token, window of 2, left words hold]",
    f"{_ORACLE}[deberta-v2-0.2-token]",
    f"{_ORACLE}_whatever_becomes_of_what_left[bert-both-token]",
    f"{_COST}a_window_costs_the_same_alone_and_in_any_batch[hold]",
    f"{_COST}cost_equals_torchs_own_count_whatever_becomes_of_what_left[bert-True-drop]",
    "tests/network/layers/test_relative.py::test_near_pairs_are_counted_one_by_one[5-drop]",
]
_SEGMENTS = "tests/tasks/test_segmenter.py::test_the_decoder_finds_the_best_valid_sequence"
_SIMULATED = f"{_CALIBRATING}test_the_simulation_lets_words_leave_by_what_heads_say_at_full_depth"
_CURVE = [
    f"{_CALIBRATING}TestTheCurve",
    f"{_CALIBRATING}test_the_search_finds_the_smallest_threshold_that_saves_enough",
]
TESTS = {
    "network/loop.py": _NETWORK,
    "network/batch.py": _NETWORK,
    "network/simulate.py": [
        f"{_CALIBRATING}test_the_simulation_is_exact_where_texts_leave_as_a_whole",
        _SIMULATED,
    ],
    "criteria/base.py": [*_CURVE, _SIMULATED, f"{_CRITERIA}entropy.py", _REDUCTION],
    "criteria/neighbours.py": [f"{_CRITERIA}entropy.py", f"{_CRITERIA}patience.py"],
    "criteria/entropy.py": [f"{_CRITERIA}entropy.py", _SIMULATED, _NETWORK[12]],
    "relatives/belief_exit.py": ["tests/relatives/test_belief_exit.py"],
    "criteria/patience.py": [f"{_CRITERIA}patience.py"],
    "relatives/reduction_exit.py": [_REDUCTION],
    "decoders/viterbi.py": ["tests/decoders/test_viterbi.py", _SEGMENTS],
    "decoders/greedy.py": ["tests/decoders/test_greedy.py"],
    "tags.py": ["tests/test_tags.py"],
    "budget/curve.py": _CURVE,
    "budget/search.py": _CURVE,
}
DESELECTED = ["tests/decoders/test_viterbi.py::test_is_fast_enough_not_to_be_seen"]

BROKEN = 99  # exit code of a child that ran no tests

OPERATORS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.And: [ast.Or], ast.Or: [ast.And],
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Add], ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult], ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult],
    ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd],
}  # fmt: skip
NAMES = {"min": "max", "any": "all", "argmax": "argmin", "maximum": "minimum", "zeros": "ones"}
NAMES |= {"zeros_like": "ones_like", "left": "right", "amax": "amin"}
NAMES |= {new: old for old, new in NAMES.items()}
UNTOUCHED = {"annotation", "returns", "decorator_list", "exc"}


@dataclass
class Mutant:
    """One small error.

    file (str): In the package.
    line (int): Where it is.
    mutation (str): What was there, and what is there instead.
    owner (Any): The list or node to change.
    key (Any): Where in it.
    new (ast.AST): What takes the place.
    tree (ast.Module): The whole file.
    """

    file: str
    line: int
    mutation: str
    owner: Any
    key: Any
    new: ast.AST
    tree: ast.Module

    def compiled(self) -> Any:
        """RETURNS (Any): The code of the mutated file. The tree is changed for good."""
        if isinstance(self.owner, list):
            self.owner[self.key] = self.new
        else:
            setattr(self.owner, self.key, self.new)
        return compile(ast.fix_missing_locations(self.tree), path_of(self.file), "exec")


def path_of(file: str) -> str:
    """RETURNS (str): The path of a file of the package."""
    return str(ROOT / PACKAGE / file)


def mutants_of(file: str) -> Iterator[Mutant]:
    """YIELDS (Mutant): All mutants of a file."""
    tree = ast.parse(Path(path_of(file)).read_text(encoding="utf8"))
    for owner, key, old, rebound in sites(tree, set()):
        for new in replacements(old, rebound):
            ast.copy_location(new, old)
            what = f"{ast.unparse(old)} -> {ast.unparse(new)}"
            yield Mutant(file, old.lineno, what, owner, key, new, tree)


def sites(node: ast.AST, rebound: set[str]) -> Iterator[tuple[Any, Any, Any, set[str]]]:
    """YIELDS (Tuple): Everything that might be mutated: its owner, its place there, itself, and
    the names that have more than one value in its function.
    """
    if isinstance(node, ast.FunctionDef):
        known = [arg.arg for arg in [*node.args.args, *node.args.kwonlyargs]]
        known += [n.id for n in ast.walk(node)
                  if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]  # fmt: skip
        rebound = {name for name in known if known.count(name) > 1}
    for field, value in ast.iter_fields(node):
        if field in UNTOUCHED:
            continue
        places = enumerate(value) if isinstance(value, list) else [(field, value)]
        for key, child in places:
            is_text = isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom)
            is_text |= isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if not isinstance(child, ast.AST) or is_text:
                continue
            if hasattr(child, "lineno"):
                yield (value if isinstance(value, list) else node), key, child, rebound
            yield from sites(child, rebound)


def replacements(node: Any, rebound: set[str]) -> Iterator[ast.AST]:
    """YIELDS (ast.AST): What may take a node's place."""
    match node:
        case ast.Compare(left, [op], others):
            yield from (ast.Compare(left, [new()], others) for new in OPERATORS[type(op)])
        case ast.Compare(left, ops, others):
            for i, op in enumerate(ops):
                for new in OPERATORS[type(op)]:
                    yield ast.Compare(left, [*ops[:i], new(), *ops[i + 1 :]], others)
        case ast.BinOp(left, op, right):
            yield from (ast.BinOp(left, new(), right) for new in OPERATORS[type(op)])
        case ast.BoolOp(op, values):
            yield from (ast.BoolOp(new(), values) for new in OPERATORS[type(op)])
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Name(name, context) if name in NAMES:
            yield ast.Name(NAMES[name], context)
        case ast.Attribute(value, name, context) if name in NAMES:
            yield ast.Attribute(value, NAMES[name], context)
        case ast.keyword(name, ast.Constant(str() as value)) if value in NAMES:
            yield ast.keyword(name, ast.Constant(NAMES[value]))
        case ast.If(test, body, other) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, other)
        case ast.IfExp(test, body, other):
            yield ast.IfExp(test, other, body)
        case ast.Break():
            yield from (ast.Continue(), ast.Pass())
        case ast.Continue():
            yield from (ast.Break(), ast.Pass())
        case ast.AugAssign(target, op, value):
            yield from (ast.AugAssign(target, new(), value) for new in OPERATORS[type(op)])
            yield ast.Pass()
        case ast.Return(value) if value is not None:
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.Raise():
            yield ast.Pass()
        case ast.Assign([ast.Subscript() | ast.Attribute()]):
            yield ast.Pass()
        case ast.Assign([ast.Name(name)]) if name in rebound:
            yield ast.Pass()


class Mutated(SourceFileLoader, MetaPathFinder):
    """Finds the one module, and gives it other code."""

    def __init__(self, mutant: Mutant):
        name = ".".join([PACKAGE, *Path(mutant.file).with_suffix("").parts])
        super().__init__(name, path_of(mutant.file))
        self.code = mutant.compiled()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """RETURNS (Any): How the module is loaded; None for all others."""
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        """RETURNS (Any): The mutated code."""
        return self.code


class FirstFailure:
    """A plugin of pytest that says which test failed first."""

    def __init__(self, out: int):
        self.out = out

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest."""
        if report.failed:
            os.write(self.out, report.nodeid.encode("utf8"))

    pytest_collectreport = pytest_runtest_logreport


def run(
    mutant: Optional[Mutant], tests: list[str], folder: str, seconds: float
) -> dict[str, object]:
    """Run tests in a child.

    mutant (Optional[Mutant]): What is wrong; None: nothing.
    tests (List[str]): As on pytest's command line.
    folder (str): For what tests write.
    seconds (float): Of the processor, after which it counts as hanging.
    RETURNS (Dict[str, object]): What came of it: ``survived``, ``killed`` or ``timed out``.
    """
    reading, writing = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if not child:
        try:
            child_main(mutant, tests, folder, seconds, writing)
        finally:
            os._exit(BROKEN)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        by = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == BROKEN:
        raise SystemExit(f"pytest itself failed with {mutant}")
    found = "timed out"
    if os.WIFEXITED(status):
        found = "killed" if os.WEXITSTATUS(status) else "survived"
    elif os.WTERMSIG(status) not in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM):
        found = "killed"  # it crashed
    took = {"seconds": round(time.perf_counter() - start, 1), "cpu": round(usage.ru_utime, 1)}
    return {"result": found, "by": by, **took}


def child_main(
    mutant: Optional[Mutant], tests: list[str], folder: str, seconds: float, out: int
) -> None:
    """Run tests, and end the process with pytest's exit code."""
    import pytest

    # Of the processor, since the machine may be busy; the alarm is for what waits without end.
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    signal.alarm(int(30 * seconds))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    if mutant is not None:
        sys.meta_path.insert(0, Mutated(mutant))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore", f"--basetemp={folder}/tests"]
    options += [f"--deselect={test}" for test in DESELECTED]
    os._exit(pytest.main([*options, *tests], plugins=[FirstFailure(out)]))


def prepare(folder: str) -> None:
    """Import what takes long, and make the small encoder, all without this package."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{folder}/hypothesis"
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    import hypothesis.strategies  # noqa: F401
    import pytest  # noqa: F401
    import spacy_curated_transformers  # noqa: F401
    import spacy_transformers  # noqa: F401
    import torch
    import torch._dynamo
    import torch.utils.flop_counter
    import transformers.models.bert.modeling_bert  # noqa: F401

    torch.set_num_threads(1)
    from tests.makers import encoders

    (Path(folder) / "encoders").mkdir()
    made = encoders.Encoders(Path(folder) / "encoders")
    made["bert"]
    encoders.Encoders = lambda folder: made  # type: ignore[assignment,misc]
    mine = [name for name in sys.modules if name.split(".")[0] == PACKAGE]
    gc.freeze()  # else the garbage collection of every child would copy all of it
    assert not mine, f"imported before any mutant: {mine}"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, help="JSON; what is in it is not run again")
    parser.add_argument("--count", type=int, default=150, help="mutants to draw from all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, help="results: run their survivors instead")
    args = parser.parse_args()
    output = args.output.resolve()
    everything = [mutant for file in TESTS for mutant in mutants_of(file)]
    chosen = random.Random(args.seed).sample(everything, min(args.count, len(everything)))
    if args.again:
        kept = [m for m in json.loads(args.again.read_text()) if m["result"] == "survived"]
        names = {(m["file"], m["line"], m["mutation"]) for m in kept}
        chosen = [m for m in everything if (m.file, m.line, m.mutation) in names]
    results = json.loads(output.read_text()) if output.exists() else []
    done = {(m["file"], m["line"], m["mutation"]) for m in results}
    chosen = [m for m in chosen if (m.file, m.line, m.mutation) not in done]
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        limits: dict[str, float] = {}
        for mutant in chosen:  # in the order that they were drawn: any first so many are a sample
            if mutant.file not in limits:
                plain = run(None, TESTS[mutant.file], folder, 600)
                if plain["result"] != "survived":
                    raise SystemExit(f"{mutant.file}: without a mutant, {plain['by']} fails")
                limits[mutant.file] = 10 + 3 * float(str(plain["cpu"]))
                print(
                    f"{mutant.file}: its tests take {plain['cpu']} s of the processor", flush=True
                )
            found = run(mutant, TESTS[mutant.file], folder, limits[mutant.file])
            about = {"file": mutant.file, "line": mutant.line, "mutation": mutant.mutation}
            results.append({**about, **found})
            print(f"{found['result']}: {mutant.file}:{mutant.line}: {mutant.mutation}", flush=True)
            output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    counts = [sum(r["result"] == name for r in results) for name in ("killed", "timed out")]
    print(f"{len(results)} of {len(everything)}: {counts[0]} killed, {counts[1]} timed out")


if __name__ == "__main__":
    main()
