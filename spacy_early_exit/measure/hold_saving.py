"""``hold_saving.v1``, a callback for training configs: before each evaluation, set the threshold
that reaches the speedup.
"""

import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from ..budget.search import search_threshold, speedup_of
from ..configure import configure
from ..pipe.component import EarlyExitPipe
from ..pipe.docs import same_words
from ..retired import reads_retired
from .docs import run_upstream, tasks_of

Scorer = Callable[..., Dict[str, Any]]
SPENT = ("exit_cost", "mac_speedup")  # how the names of scores begin that are about cost


@reads_retired("hold_saving")
def make_hold_saving(
    path: Path,
    speedup: float,
    every: int,
    component: str = "early_exit_ner",
    most_words: int = 3000,
) -> Callable[[Language, Dict[str, Any]], None]:
    """Make the callback ``spacy-early-exit.hold_saving.v1``, for ``training.before_update``.

    While a network learns, the same threshold saves more and more. This callback sets the threshold
    before each evaluation so that the speedup stays the same: checkpoints are then chosen at equal
    cost. The texts need no annotation. The threshold goes into the config, so that every checkpoint
    is saved with its own.

    spaCy also evaluates the pipeline that training starts from. If that was itself chosen on the
    same texts as the best of many, its score is too high, and on a small corpus no checkpoint would
    ever beat it. So its score is set to 0.

    With the optimizer's ``use_averages``, it would hold the speedup of weights other than those
    that are evaluated.

    path (Path): A ``.spacy`` file with texts to measure the speedup on, tokenized as spaCy's corpus
        reader does.
    speedup (float): The speedup to hold, full-depth cost / spent cost.
    every (int): Steps between evaluations: ``training.eval_frequency``.
    component (str): Name of the component. If others share its encoder, the speedup is that of the
        pass, and they get the same threshold.
    most_words (int): About how many words to use, in whole texts from all over the file.
    RETURNS (Callable): The callback.
    RAISES (ValueError): If an argument makes no sense.
    """
    if not 1.0 < speedup < float("inf") or every < 1:
        raise ValueError(
            f"hold_saving: speedup must be above 1 and every at least 1, not {speedup} and {every}."
        )
    texts: List[Doc] = []
    scorers: List[Any] = []  # the components and their scorers, while these are replaced

    def hold_saving(nlp: Language, info: Dict[str, Any]) -> None:
        while scorers and info["step"]:
            task, scorer = scorers.pop()
            task.scorer = scorer
        if info["step"] % every:
            return
        if not texts:
            texts.extend(some_texts(nlp, path, most_words))
        ner = nlp.get_pipe(component)
        if not isinstance(ner, EarlyExitPipe):
            raise ValueError(
                f"hold_saving: '{component}' is not an early-exit component, but a "
                f"{type(ner).__name__}."
            )
        tasks = tasks_of(ner)
        if info["step"] == 0:
            for task in tasks:
                scorers.append((task, task.scorer))
                task.scorer = _all_zero(task.scorer)
        set_threshold_for(speedup, nlp, ner, texts, f"hold_saving, step {info['step']}")

    return hold_saving


def set_threshold_for(
    speedup: float, nlp: Language, ner: EarlyExitPipe, texts: Sequence[Doc], who: str
) -> None:
    """Set the threshold that reaches a speedup on some texts, for all tasks of a pass. It goes into
    the config, too. If no threshold saves that much, it is the one that saves most, with a warning.

    speedup (float): The speedup, full-depth cost / spent cost.
    nlp (Language): The pipeline, changed in place.
    ner (EarlyExitPipe): The component.
    texts (Sequence[Doc]): The texts.
    who (str): Who asks for it, for the warning.
    """
    tasks = tasks_of(ner)
    docs = run_upstream(nlp, ner, [_as_evaluated(nlp, doc) for doc in texts])

    def speedup_at(threshold: float) -> float:
        for task in tasks:
            task.threshold = threshold
        exits = [prediction.exits for prediction in ner.predict(docs)]
        return speedup_of((seen.spent, seen.full) for seen in exits)

    threshold = search_threshold(speedup, speedup_at)
    reached = speedup_at(threshold)
    if reached < speedup:
        warnings.warn(
            f"{who}: no threshold of '{ner.name}' saves {speedup:g}X. The most that one saves is "
            f"{reached:.2f}X.",
            stacklevel=3,
        )
    for task in tasks:
        name = next(name for name, pipe in nlp.pipeline if pipe is task)
        configure(nlp, threshold=threshold, name=name)


def _all_zero(scorer: Optional[Scorer]) -> Optional[Scorer]:
    """RETURNS (Optional[Callable]): A scorer that returns 0 for every number except what was spent,
    for which 0 would be the best. Scores must not be missing: spaCy forgets the weight of a score
    that is missing once, and all later checkpoints would then be equally good.
    """
    if scorer is None:
        return None

    def score(examples: Iterable[Example], **kwargs: Any) -> Dict[str, Any]:
        scores = scorer(examples, **kwargs)
        return {
            name: value if isinstance(value, dict) or name.startswith(SPENT) else 0.0
            for name, value in scores.items()
        }

    return score


def some_texts(nlp: Language, path: Path, most_words: int) -> List[Doc]:
    """RETURNS (List[Doc]): Texts from all over a file: texts next to each other are often similar.

    nlp (Language): The pipeline.
    path (Path): The file.
    most_words (int): About how many words they have.
    """
    texts = list(DocBin().from_disk(path).get_docs(nlp.vocab))
    if not texts:
        raise ValueError(f"There are no texts in {path} to measure a speedup on.")
    share = min(1.0, most_words / max(1, sum(map(len, texts))))
    count = max(1, round(share * len(texts)))
    return [texts[i * len(texts) // count] for i in range(count)]


def _as_evaluated(nlp: Language, doc: Doc) -> Doc:
    """RETURNS (Doc): A text without annotation, tokenized as ``spacy train`` evaluates it: with the
    annotated words if it is not known how they were spaced, otherwise with the tokenizer's.
    """
    return same_words(doc) if doc.has_unknown_spaces else nlp.make_doc(doc.text)
