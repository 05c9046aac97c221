"""Memory that training hands back."""

from spacy_early_exit.training import memory


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
