"""What holds for any input, from the tests: the one place where benchmarks use code of theirs."""

from tests.factories import Encoders, answers
from tests.properties import PIPELINES, Case, Pipelines, cases, check, is_tie, trivial

__all__ = [
    "PIPELINES",
    "Case",
    "Encoders",
    "Pipelines",
    "answers",
    "cases",
    "check",
    "is_tie",
    "trivial",
]
