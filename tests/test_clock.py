"""Which cases of a test run when not all have the time."""

import itertools

import pytest

from tests.clock import cases_of, leave_out, values_of


class Case:
    def __init__(self, nodeid):
        self.nodeid, self.marks = nodeid, []

    def add_marker(self, mark):
        self.marks.append(mark.name)


def cases(*values):
    return [Case(f"tests/test_a.py::test[{'-'.join(v)}]") for v in itertools.product(*values)]


@pytest.mark.parametrize("most, ran", [(1, 1), (4, 4), (9, 9), (100, 12)])
def test_as_many_cases_run_as_there_is_time_for(most, ran):
    some = cases("abcd", "123")
    leave_out(some, most)
    assert [case.marks for case in some].count([]) == ran
    assert all(case.marks in ([], ["skip"]) for case in some)


def test_each_value_is_among_them_if_possible():
    some = cases("abcd", "123", "xy")
    leave_out(some, 4)
    kept = [values_of(case) for case in some if not case.marks]
    assert set().union(*kept) == set("abcd123xy") and len(kept) == 4


def test_the_same_ones_run_whatever_their_order():
    some, other = cases("abcd", "123"), cases("abcd", "123")[::-1]
    for these in (some, other):
        leave_out(these, 5)
    ran = [{case.nodeid for case in these if not case.marks} for these in (some, other)]
    assert ran[0] == ran[1]


def test_cases_belong_to_their_test():
    found = cases_of(
        [*cases("ab"), Case("tests/test_a.py::test_b"), Case("tests/test_c.py::test[a]")]
    )
    assert [len(of) for of in found.values()] == [2, 1, 1]
