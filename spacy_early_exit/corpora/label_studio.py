"""What Label Studio exports as JSON: a list of tasks, in full (JSON) or short (JSON-MIN)::

    [{"data": {"text": "Ann lives in Oslo."}, "annotations": [{"result": [
        {"type": "labels", "value": {"start": 0, "end": 3, "text": "Ann", "labels": ["PER"]}}]}]}]
    [{"text": "Ann lives in Oslo.", "label": [
        {"start": 0, "end": 3, "text": "Ann", "labels": ["PER"]}]}]

Its CoNLL export is read by ``columns.py``.
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import srsly
from spacy.language import Language

from .entities import Entity, Text, check_entity, to_corpus
from .lines import CorpusError, check_characters, read_file, shown
from .remarks import Corpus, remark


def read_label_studio(path: Path, nlp: Language) -> Corpus:
    """Read texts with entities from an export of Label Studio.

    Of several annotations of a task, the last one that was not cancelled counts. Without any, the
    text is not annotated. Some releases count offsets in the units of JavaScript, in which many
    emoji are two. The words of the entities, which exports repeat, tell which it was.

    path (Path): The file.
    nlp (Language): The pipeline, for its tokenizer.
    RETURNS (Corpus): The texts.
    RAISES (CorpusError): If they can't be read, or none is annotated.
    """
    texts: List[Text] = []
    mismatched: List[Tuple[int, str]] = []
    tasks = read_tasks(path)
    for number, task in enumerate(tasks, 1):
        place = f"{path}, task {number}"
        text = _text_of(task, place)
        regions = _regions_of(task, place)
        entities = None if regions is None else _entities_in(regions, text, place)
        if regions is not None and entities is None:
            mismatched.append((number, text))
        else:
            texts.append(Text(number, text, entities))
    return to_corpus(path, texts, remark("mismatched", mismatched, len(tasks), "task"), nlp, "task")


def read_tasks(path: Path) -> List[Dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): The tasks of an export.

    path (Path): The file.
    RAISES (CorpusError): If it is none.
    """
    try:
        tasks = srsly.json_loads(read_file(path))
    except ValueError as e:
        if isinstance(e, CorpusError):
            raise
        raise CorpusError(f"{path} is not valid JSON: {e}") from e
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise CorpusError(
            f"{path} is no list of tasks, as Label Studio exports it. Name a file of JSON lines "
            f".jsonl."
        )
    return tasks


def _text_of(task: Dict[str, Any], place: str) -> str:
    data = task.get("data", task)
    text = data.get("text") if isinstance(data, dict) else None
    if text is None and isinstance(data, dict) and "data" in task:
        texts = [value for value in data.values() if isinstance(value, str)]
        text = texts[0] if len(texts) == 1 else None
    if not isinstance(text, str):
        raise CorpusError(f'{place}: there is no "text" in {shown(repr(data))}')
    check_characters(text, "text", place)
    return text


def _regions_of(task: Dict[str, Any], place: str) -> Optional[List[Dict[str, Any]]]:
    """RETURNS (Optional[List[Dict[str, Any]]]): What is marked: starts, ends and labels; None if
    nobody has annotated the task.
    """
    if "data" not in task:  # in short: under the name of the labelling tag
        lists = [value for value in task.values() if isinstance(value, list)]
        marked = [v for one in lists for v in one if isinstance(v, dict) and "labels" in v]
        return marked or ([] if "annotation_id" in task else None)
    done = task.get("annotations")
    if not isinstance(done, list) or not all(isinstance(one, dict) for one in done):
        raise CorpusError(f'{place}: there is no list of "annotations".')
    results = [one.get("result") for one in done if not one.get("was_cancelled")]
    if not results:
        return None
    found = results[-1]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise CorpusError(f'{place}: "result" must be a list, not {shown(repr(found))}')
    values = [one.get("value") for one in found if one.get("type") == "labels"]
    return [value if isinstance(value, dict) else {} for value in values]


def _entities_in(regions: List[Dict[str, Any]], text: str, place: str) -> Optional[List[Entity]]:
    """RETURNS (Optional[List[Entity]]): What is marked, by characters; None if neither way to count
    fits the words.
    """
    units = [at for at, character in enumerate(text) for _ in range(1 + (character > "\uffff"))]
    units.append(len(text))
    for counts in (range(len(text) + 1), units):
        counted = [_counted(region, counts) for region in regions]
        if all(_fits(region, text) for region in counted):
            return [
                check_entity([region.get("start"), region.get("end"), label], len(text), place)
                for region in counted
                for label in _labels_of(region)
            ]
    return None


def _counted(region: Dict[str, Any], counts: Sequence[int]) -> Dict[str, Any]:
    """RETURNS (Dict[str, Any]): What is marked, by characters.

    region (Dict[str, Any]): The same, counted in some way.
    counts (Sequence[int]): The character for each number of that way.
    """
    ends = {key: region.get(key) for key in ("start", "end")}
    inside = {
        key: counts[at] for key, at in ends.items() if type(at) is int and 0 <= at < len(counts)
    }
    return {**region, **inside}


def _fits(region: Dict[str, Any], text: str) -> bool:
    """RETURNS (bool): Whether a region has the words that it says it has, if it says so. Exports
    write line breaks in more than one way.
    """
    start, end, words = (region.get(key) for key in ("start", "end", "text"))
    if type(start) is not int or type(end) is not int or not isinstance(words, str):
        return True  # checked later, or nothing to check
    return text[start:end].split() == words.replace("\\n", " ").split()


def _labels_of(region: Dict[str, Any]) -> List[Any]:
    labels = region.get("labels")
    return labels if isinstance(labels, list) else [labels]
