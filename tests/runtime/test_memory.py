"""Memory that is handed back."""

import pytest

from spacy_early_exit.runtime import memory


def test_memory_is_handed_back_only_after_it_has_grown(monkeypatch):
    trims = []

    class Libc:
        def malloc_trim(self, pad):
            trims.append(pad)

    sizes = iter([5, 6, 6 + memory.GROWTH, 9, 9 + memory.GROWTH, 10 + memory.GROWTH, 7, 0, 7])
    monkeypatch.setattr(memory, "_glibc", Libc)
    monkeypatch.setattr(memory, "_resident", lambda: next(sizes))
    monkeypatch.setattr(memory, "_after_last", 0)
    memory.release_freed_memory()  # at 5 first, which is what growth counts from
    assert not trims
    memory.release_freed_memory()  # 6
    assert not trims
    memory.release_freed_memory()  # grown by more than that: 9 is left
    assert len(trims) == 1
    memory.release_freed_memory()  # exactly as much: not yet
    assert len(trims) == 1
    memory.release_freed_memory()
    assert len(trims) == 2
    memory.release_freed_memory()  # nobody knows how much: to be safe
    assert len(trims) == 3


def test_predicting_hands_it_back_seldom(monkeypatch):
    trims, now = [], [1000.0]

    class Libc:
        def malloc_trim(self, pad):
            trims.append(now[0])
            now[0] += 0.5  # how long it takes

    monkeypatch.setattr(memory, "_glibc", Libc)
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(memory, "_not_before", 0.0)
    for _ in range(2_000):  # a process that has just begun is left alone
        memory.release_freed_memory_now_and_then()
        now[0] += 1.0
    assert trims[0] == 1000.0 + memory.MIN_PAUSE
    pauses = [later - earlier for earlier, later in zip(trims, trims[1:])]
    assert len(pauses) >= 2 and all(0.5 / memory.SHARE <= pause < 502 for pause in pauses)


def test_it_is_a_prediction_that_does(nlp, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "spacy_early_exit.model.model.release_freed_memory_now_and_then", lambda: calls.append(1)
    )
    nlp("Ann")
    assert calls == [1]


@pytest.mark.skipif(memory._glibc() is None, reason="the C library is another")
def test_the_real_one_does_not_fail(monkeypatch):
    monkeypatch.setattr(memory, "_not_before", 1e-9)
    memory.release_freed_memory_now_and_then()
    assert memory._not_before >= memory.MIN_PAUSE
