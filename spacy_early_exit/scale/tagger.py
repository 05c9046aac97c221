"""What a worker does: it loads the pipeline once, and tags texts."""

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import pyarrow as pa
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import import_file, load_model

from ..corpora import CorpusError
from ..pipe.component import EarlyExitPipe
from ..pipe.records import get_confidence, get_records
from .parts import Columns, Part, Text, read
from .table import Tagged, to_table, whole_file, write_about

BATCH = 1000  # texts that are tagged together: fewer are slower
MAX_CHARACTERS = 1_000_000  # of a batch, or little more: its Docs are in memory together
SHARED_BATCH = 256  # with a shared budget, which is told after each batch
# Tells what texts cost and returns the next position and threshold: SharedController.exchange.
Exchange = Callable[..., Tuple[float, float]]


@dataclass(frozen=True)
class Setting:
    """What workers run: plain data, which travels with the tasks in place of the pipeline.

    model (str): Folder or name of the pipeline. Every worker loads it from there.
    speedup (Optional[float]): The speedup to aim at; None: as in the pipeline's config.
    component (Optional[str]): Name of the early-exit component; None: the only one that has an
        encoder.
    code (Optional[str]): A Python file that registers what the pipeline's config names.
    """

    model: str
    speedup: Optional[float] = None
    component: Optional[str] = None
    code: Optional[str] = None


@dataclass(frozen=True)
class Task:
    """What is done with each part.

    setting (Setting): What to run.
    columns (Columns): Where texts are.
    folder (Path): Where files go.
    """

    setting: Setting
    columns: Columns
    folder: Path


@dataclass
class Report:
    """What became of a part.

    number (int): The part's number.
    texts (int): How many texts it has.
    words (int): How many words.
    errors (int): How many texts could not be tagged.
    spent (int): What the others cost, in MACs.
    full (int): Their cost at full depth.
    seconds (float): How long it took,
    tagging (float): of which the pipeline ran for this long.
    loading (float): How long loading the pipeline took before that; 0 if it was there.
    failed (str): Why there is no file of it; empty: there is one.
    """

    number: int
    texts: int = 0
    words: int = 0
    errors: int = 0
    spent: int = 0
    full: int = 0
    seconds: float = 0.0
    tagging: float = 0.0
    loading: float = 0.0
    failed: str = ""


class Tagger:
    """A pipeline that tags texts, one row each. Those that fail have their error in theirs.

    setting (Setting): What to run.
    threads (Optional[int]): How many threads it may use; None: as many as there are processors.
    RAISES (ValueError): If the pipeline has no such component, or can't have the speedup.
    """

    def __init__(self, setting: Setting, threads: Optional[int] = None):
        if setting.code:
            import_file("python_code", setting.code)
        if threads:
            torch.set_num_threads(threads)  # for what else there is in the pipeline
        self.nlp: Language = load_model(setting.model)
        self.pipe = find_component(self.nlp, setting)
        self.name = self.pipe.name
        for _, pipe in self.nlp.pipeline:
            if threads and isinstance(pipe, EarlyExitPipe):
                pipe.settings = replace(pipe.settings, threads=threads)
        if setting.speedup is not None:
            self.pipe.speedup = setting.speedup
        self.pipe.ready_to_predict()  # what is wrong with it is no fault of the texts
        self.nlp.set_error_handler(self._keep)
        self._error = ""

    def tag(
        self, texts: Sequence[Optional[str]], threshold: Optional[float] = None
    ) -> List[Tagged]:
        """Tag texts.

        texts (Sequence[Optional[str]]): The texts; None: there is none, which is an error.
        threshold (Optional[float]): The threshold; None: the speedup or threshold in force.
        RETURNS (List[Tagged]): What is known of each.
        """
        found: Dict[int, Tagged] = {}
        call = {self.name: {"threshold": threshold, "adaptive": False}}
        # The vocabulary would keep every new word.
        with self.nlp.memory_zone():
            docs = {}
            for number, text in enumerate(texts):
                try:
                    if text is None:
                        raise ValueError("there is no text")
                    docs[number] = self.nlp.make_doc(text)
                except Exception as e:  # too long for spaCy, for one
                    found[number] = Tagged(0, error=_shown(e))
            found.update(self._annotate(docs, call))
            for number in docs.keys() - found.keys():
                # Alone, so that it is clear whose error it is: components may fail for a batch.
                doc, self._error = self.nlp.make_doc(texts[number]), "A component left it out."
                words = len(doc)
                done = self._annotate({number: doc}, call)
                found[number] = done.get(number) or Tagged(words, error=self._error)
        return [found[number] for number in range(len(texts))]

    def _annotate(self, docs: Dict[int, Doc], call: Dict[str, Any]) -> Dict[int, Tagged]:
        """RETURNS (Dict[int, Tagged]): The rows of docs that did not fail, by number."""
        stream = [(doc, number) for number, doc in docs.items()]
        done: Dict[int, Tagged] = {}
        try:
            for doc, number in self.nlp.pipe(
                stream, as_tuples=True, batch_size=BATCH, component_cfg=call
            ):
                done[number] = self._row(doc)
        except Exception as e:
            self._error = _shown(e)
        return done

    def _row(self, doc: Doc) -> Tagged:
        record = get_records(doc)[self.name]
        entities = [
            {
                "start": ent.start_char,
                "end": ent.end_char,
                "label": ent.label_,
                "text": ent.text,
                "confidence": get_confidence(ent, self.name),
            }
            for ent in doc.ents
        ]
        return Tagged(len(doc), entities, record.spent, record.full)

    def _keep(self, name: str, component: Any, docs: Any, error: Exception) -> None:
        """An error handler of spaCy's, which does not raise."""
        self._error = _shown(error)


@functools.lru_cache(maxsize=1)
def tagger(setting: Setting, threads: Optional[int] = None) -> Tagger:
    """RETURNS (Tagger): The tagger of this process, which loads its pipeline once."""
    return Tagger(setting, threads)


def find_component(nlp: Language, setting: Setting) -> EarlyExitPipe:
    """RETURNS (EarlyExitPipe): The component that a setting names, or the only one that has an
    encoder.

    nlp (Language): The pipeline.
    setting (Setting): What to run.
    RAISES (ValueError): If there is none, or not exactly one to choose, or it finds no entities.
    """
    mine = {name: pipe for name, pipe in nlp.pipeline if isinstance(pipe, EarlyExitPipe)}
    named = {name: pipe for name, pipe in mine.items() if setting.component == name}
    if setting.component is None:
        named = {name: pipe for name, pipe in mine.items() if pipe.lender_name is None}
    if len(named) != 1:
        raise ValueError(
            f"{setting.model} has these early-exit components: {', '.join(mine) or 'none'}. Name "
            f"one of them."
        )
    (pipe,) = named.values()
    if pipe.scheme != "bio":
        raise ValueError(f"'{pipe.name}' of {setting.model} finds no entities: it is {pipe.kind}.")
    return pipe


def tag_part(
    task: Task,
    part: Part,
    threads: Optional[int] = None,
    exchange: Optional[Exchange] = None,
) -> Report:
    """Tag a part of a job and write its file.

    task (Task): What to do.
    part (Part): The part.
    threads (Optional[int]): How many threads the pipeline may use.
    exchange (Optional[Exchange]): Takes what texts cost and says at which threshold to go on; None:
        the setting's speedup is in force.
    RETURNS (Report): What became of it. If the file can't be read or written, it says so: the other
        parts go on.
    """
    report = Report(part.number)
    begun = time.perf_counter()
    loaded = tagger.cache_info().misses
    worker = tagger(task.setting, threads)
    if tagger.cache_info().misses > loaded:
        report.loading = time.perf_counter() - begun
    try:
        with whole_file(task.folder / part.output) as writer:
            texts, told = read(part, task.columns), (0, 0, 0)
            position, threshold = (None, None) if exchange is None else exchange()
            for batch in batches(texts, BATCH if exchange is None else SHARED_BATCH):
                writer.write_batch(_tag_batch(worker, batch, threshold, report))
                if exchange is not None:
                    sums = (report.words, report.spent, report.full)
                    news = (now - before for now, before in zip(sums, told))
                    position, threshold = exchange(position, *news)
                    told = sums
            report.seconds = time.perf_counter() - begun - report.loading
            write_about(writer, totals_of(report))
    except (CorpusError, OSError) as e:
        return Report(part.number, loading=report.loading, failed=str(e))
    return report


def batches(texts: Iterable[Text], size: int) -> Iterator[List[Text]]:
    """Cut texts into batches.

    texts (Iterable[Text]): The texts.
    size (int): The largest number of texts in a batch. Of long texts there are fewer.
    YIELDS (List[Text]): The batches.
    """
    batch: List[Text] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text.text or "")
        if len(batch) == size or characters >= MAX_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tag_batch(
    worker: Tagger, batch: Sequence[Text], threshold: Optional[float], report: Report
) -> pa.RecordBatch:
    """RETURNS (RecordBatch): Texts of a part, tagged; the report has them, too."""
    begun = time.perf_counter()
    tagged = worker.tag([text.text for text in batch], threshold)
    report.tagging += time.perf_counter() - begun
    rows = [
        one if text.error is None else one._replace(error=text.error)
        for text, one in zip(batch, tagged)
    ]
    report.texts += len(rows)
    report.errors += sum(one.error is not None for one in rows)
    report.words += sum(one.words for one in rows if one.error is None)
    report.spent += sum(one.spent or 0 for one in rows)
    report.full += sum(one.full or 0 for one in rows)
    return to_table([text.id for text in batch], rows)


def totals_of(report: Report) -> Dict[str, float]:
    """RETURNS (Dict[str, float]): The numbers of a report that add up over parts."""
    names = ("texts", "words", "errors", "spent", "full", "seconds", "tagging")
    return {name: getattr(report, name) for name in names}


def tag_table(worker: Tagger, table: Any, columns: Columns = Columns()) -> pa.RecordBatch:
    """Tag a table, or a batch of one.

    worker (Tagger): The tagger.
    table (Any): An Arrow table or record batch with the column of texts. Ids are copied, if there
        are any.
    columns (Columns): Where texts and ids are.
    RETURNS (RecordBatch): A row for each of its rows.
    """
    given = table[columns.text].to_pylist()
    has_id = columns.id in table.schema.names
    ids = table[columns.id].to_pylist() if has_id else [None] * len(given)
    tagged: List[Tagged] = []
    for batch in batches((Text("", text) for text in given), BATCH):
        tagged += worker.tag([text.text for text in batch])
    return to_table([None if one is None else str(one) for one in ids], tagged)


def _shown(error: Exception) -> str:
    shown = f"{type(error).__name__}: {error}"
    return shown.encode("utf8", "backslashreplace").decode("utf8")
