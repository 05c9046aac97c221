"""How files are cut into parts, and read."""

import json

import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra [parquet]")
import pyarrow.parquet as pq  # noqa: E402

from spacy_early_exit.corpora import CorpusError  # noqa: E402
from spacy_early_exit.scale import parts as module  # noqa: E402
from spacy_early_exit.scale.parts import Columns, cut, read  # noqa: E402

TEXTS = ["Ann", "  two\twords ", "näive 👍🏽", "x" * 500, "", "last"]


def write_txt(path, texts):
    path.write_text("\n\n".join(texts), encoding="utf-8-sig", newline="\r\n")


def write_jsonl(path, texts):
    lines = [json.dumps({"id": i, "text": text, "more": []}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf8")


def write_parquet(path, texts):
    table = pa.table({"more": [1] * len(texts), "text": texts, "id": range(len(texts))})
    pq.write_table(table, path, row_group_size=2)


def read_all(source, size, columns=Columns()):
    return [text for part in cut(source, columns, size) for text in read(part, columns)]


@pytest.mark.parametrize("size", [1, 2, 4, 100])
@pytest.mark.parametrize(
    "name, write", [("a.txt", write_txt), ("a.jsonl", write_jsonl), ("a.parquet", write_parquet)]
)
def test_parts_of_any_size_have_all_texts_once_and_in_order(name, write, size, tmp_path):
    write(tmp_path / name, TEXTS)
    found = read_all(tmp_path / name, size)
    if name == "a.txt":  # lines without words are no texts
        assert [one.text for one in found] == [text for text in TEXTS if text]
        assert [one.id for one in found] == [f"a.txt:{n}" for n in (1, 3, 5, 7, 11)]
    else:
        assert found == [(str(number), text, None) for number, text in enumerate(TEXTS)]
    parts = list(cut(tmp_path / name, Columns(), size))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert sum(part.texts for part in parts) == len(found)


def test_parts_of_long_texts_have_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 400)
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    parts = list(cut(tmp_path / "a.jsonl", Columns(), 100))
    assert [part.texts for part in parts] == [4, 2]
    assert [one.text for one in read_all(tmp_path / "a.jsonl", 100)] == TEXTS


def test_folders_are_read_in_order_without_what_is_hidden(tmp_path):
    (tmp_path / "in" / "_temporary").mkdir(parents=True)
    (tmp_path / "in" / "b").mkdir()
    write_parquet(tmp_path / "in" / "z.parquet", TEXTS[:1])
    write_txt(tmp_path / "in" / "b" / "c.txt", TEXTS[1:2])
    write_txt(tmp_path / "in" / "_temporary" / "d.txt", TEXTS)
    write_txt(tmp_path / "in" / ".e.txt", TEXTS)
    (tmp_path / "in" / "README").write_text("no text")
    found = read_all(tmp_path / "in", 10)
    assert [one.id for one in found] == ["b/c.txt:1", "0"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="has no files that end with"):
        read_all(tmp_path / "empty", 10)


def test_texts_and_ids_may_have_other_names(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "Ann", "key": "k\\ud83d"}\n{"body": "Bob"}')
    found = read_all(tmp_path / "a.jsonl", 10, Columns("body", "key"))
    assert found == [("k?", "Ann", None), ("a.jsonl:2", "Bob", None)]


def test_a_bad_line_has_an_error_and_the_others_their_texts(tmp_path):
    lines = [b'{"text": "good"}', b'{"text": "half \\ud83d"}', b"{", b'{"text": 1}']
    lines += [b"[1]", b"\xff", b'{"text": "good, too"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = read_all(tmp_path / "a.jsonl", 3)
    assert [one.text for one in found] == ["good", *[None] * 5, "good, too"]
    says = ["lone surrogate", "not valid JSON", "is not {", "is not {", "not UTF-8: byte 0 is 0xff"]
    assert all(part in one.error for part, one in zip(says, found[1:-1], strict=True))


def test_a_row_without_text_has_an_error(tmp_path):
    pq.write_table(pa.table({"text": ["Ann", None]}), tmp_path / "a.parquet")
    good, bad = read_all(tmp_path / "a.parquet", 10)
    assert good == ("a.parquet:1", "Ann", None)
    assert bad.text is None and "null" in bad.error


def test_a_bad_file_is_an_error_that_names_it(tmp_path):
    bad = tmp_path / "bad.parquet"
    for name in ("missing.txt", "bad.parquet"):
        with pytest.raises(CorpusError, match=f"no file or folder .*{name}"):
            read_all(tmp_path / name, 10)
    bad.write_bytes(b"PAR1 no more")
    with pytest.raises(CorpusError, match=r"bad\.parquet can't be read"):
        read_all(bad, 10)
    pq.write_table(pa.table({"body": ["Ann"], "n": [1]}), bad)
    with pytest.raises(CorpusError, match=r"bad\.parquet has no column 'text'. It has: body, n"):
        read_all(bad, 10)
    with pytest.raises(CorpusError, match=r"'n' of .*bad\.parquet must be text, not int64"):
        read_all(bad, 10, Columns("n"))


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    write_txt(tmp_path / "a.txt", TEXTS)
    (part,) = cut(tmp_path / "a.txt", Columns(), 10)
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(CorpusError, match=r"a\.txt has become shorter"):
        list(read(part, Columns()))
