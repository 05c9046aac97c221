"""Make the synthetic demo corpus: e-mails, tickets, chat and news about people who do not exist.

Patterns of our own writing (demo_patterns.txt) are filled with names, places, dates and contact
details by the library Faker. It is for trying things out where no real corpus is at hand; no
number measured on it says anything about real text. Patterns and fillers of train, tune and
dev have nothing in common, so that dev is not a test of memory.
"""

import argparse
import random
import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Iterator

import spacy
from faker import Faker
from tqdm import tqdm

PATTERNS = Path(__file__).with_name("demo_patterns.txt")
PARTS = {"train": 0.7, "tune": 0.1, "dev": 0.2}
FILLS = {"train": 24, "tune": 20, "dev": 16}  # maximum for each pattern: repeats are dropped
LOCALES = "en_US en_GB en_IN de_DE fr_FR es_ES it_IT nl_NL pl_PL pt_BR".split()
SLOT = re.compile(r"\{(\w+)(\*?)\}")
LABELS = {
    "person": "PERSON",
    "first": "PERSON",
    "surname": "PERSON",
    "org": "ORG",
    "place": "PLACE",
    "date": "DATE",
    "email": "CONTACT",
    "phone": "CONTACT",
}
# First names that are also words.
WORDS = (
    "May Will Mark Rose Hope Grace Bill Art Frank Jack Summer Dawn Faith Joy Drew Chase Hunter "
    "Ray Rich Sue Rob Dean Miles Penny Ruby Amber Holly Ivy Olive Sandy Lance Pierce Grant Reed "
    "Heath Cliff Dale Guy Norm Carol Robin Pearl Page Jade Mason"
).split()
# People, places and organisations go by these names.
ANYTHING = (
    "Jordan Paris Chelsea Lincoln Houston Florence Austin Sydney Washington Madison Carter Hudson "
    "Dallas Brooklyn Savannah Victoria Georgia Charlotte Devon Chester Kent Preston Wells Bristol "
    "Douglas Phoenix Aurora Geneva Lourdes Milan Vienna Sienna Camden Denver Boston Trenton Logan "
    "Orlando Marlow Clifton Stanley Sterling Ashford Bentley Lancaster Windsor Warwick Chandler"
).split()
DATES = ("%d %B %Y", "%B %d, %Y", "%Y-%m-%d", "%d/%m/%Y", "%d %B", "%B %d", "%d %b", "%d.%m.%Y")


@dataclass(frozen=True)
class Pattern:
    """A pattern and the kind of text it belongs to."""

    kind: str
    text: str

    @property
    def masked(self) -> frozenset[str]:
        """RETURNS (frozenset[str]): Its tokens, with all slots alike."""
        return frozenset(re.findall(r"\w+|[^\w\s]", SLOT.sub("SLOT", self.text.lower())))


def read_patterns(path: Path = PATTERNS) -> list[Pattern]:
    """RETURNS (list[Pattern]): The patterns of a file."""
    patterns, kind = [], ""
    for line in path.read_text(encoding="utf8").splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            kind = match[1]
        elif line and not line.startswith("#"):
            patterns.append(Pattern(kind, line))
    return patterns


def shares(items: list[Any], draw: random.Random) -> dict[str, list[Any]]:
    """RETURNS (dict[str, list[Any]]): The items by part. None is in two parts."""
    items = draw.sample(items, len(items))
    cut, bounds = 0.0, [0]
    for share in PARTS.values():
        cut += share
        bounds.append(round(cut * len(items)))
    return {part: items[a:b] for part, a, b in zip(PARTS, bounds, bounds[1:])}


def make_fillers(seed: int) -> dict[str, dict[str, list[Any]]]:
    """RETURNS (dict[str, dict[str, list[Any]]]): What may fill the slots, by part and kind."""
    pools: dict[str, list[Any]] = {
        "word": list(WORDS),
        "anything": list(ANYTHING),
        "day": [date(2024, 1, 1) + timedelta(days=day) for day in range(366)],
        **{kind: [] for kind in ("first", "surname", "org", "place", "email", "phone")},
    }
    taken = {name.lower() for name in (*WORDS, *ANYTHING)}
    for number, locale in enumerate(tqdm(LOCALES, desc="names", leave=False)):
        fake = Faker(locale)
        fake.seed_instance(seed * 1000 + number)
        for provider in fake.get_providers():
            if isinstance(getattr(provider, "cities", None), list):
                # Italian ones are in the order of a set, which is another one in every process.
                provider.cities = sorted(provider.cities)
        for kind, make, count in (
            ("first", fake.first_name, 150),
            ("surname", fake.last_name, 200),
            ("org", fake.company, 150),
            ("place", fake.city, 150),
            ("email", fake.ascii_safe_email, 60),
            ("phone", fake.phone_number, 60),
        ):
            for _ in range(count):
                text = " ".join(make().split())
                if text.lower() not in taken:
                    taken.add(text.lower())
                    pools[kind].append(text)
    draw = random.Random(seed)
    by_kind = {kind: shares(pool, draw) for kind, pool in pools.items()}
    return {part: {kind: pool[part] for kind, pool in by_kind.items()} for part in PARTS}


class Filler:
    """Fills patterns for one part of the corpus.

    fillers (dict[str, list[Any]]): What may fill the slots, by kind.
    draw (random.Random): The source of randomness.
    """

    def __init__(self, fillers: dict[str, list[Any]], draw: random.Random):
        self.fillers = fillers
        self.draw = draw

    def segments(self, pattern: Pattern) -> Iterator[tuple[str, str]]:
        """YIELDS (tuple[str, str]): The filled pattern in pieces, each with its label or ''."""
        same = self._one("anything")
        end = 0
        for match in SLOT.finditer(pattern.text):
            yield pattern.text[end : match.start()], ""
            kind, star = match[1], match[2]
            yield same if star else self.text(kind), LABELS.get(kind, "")
            end = match.end()
        yield pattern.text[end:], ""

    def text(self, kind: str) -> str:
        """RETURNS (str): Something for a slot of a kind."""
        chance = self.draw.random()
        if kind == "person":
            return f"{self.text('first')} {self.text('surname')}"
        if kind == "first" and chance < 0.2:
            return self._one("word")
        if kind in ("first", "surname", "org", "place") and chance < 0.3:
            return self._one("anything") if chance > 0.15 else self._one(kind)
        if kind == "date":
            day: date = self.draw.choice(self.fillers["day"])
            day = day.replace(year=self.draw.choice((2020, 2024, 2028)))
            return day.strftime(self.draw.choice(DATES)).lstrip("0")
        if kind == "n":
            return str(self.draw.choice([self.draw.randint(2, 99), self.draw.randint(100, 9999)]))
        if kind == "code":
            return (
                f"{self.draw.choice(['INC', 'REQ', 'PO', 'RMA'])}-{self.draw.randint(1000, 99999)}"
            )
        return self._one(kind)

    def _one(self, kind: str) -> str:
        one: str = self.draw.choice(self.fillers[kind])
        return one

    def written(self, pattern: Pattern) -> tuple[str, list[tuple[int, int, str]]]:
        """RETURNS (tuple[str, list]): A text as people write it, and its entities."""
        casing = self.draw.random()
        lower = casing < (0.5 if pattern.kind == "chat" else 0.2)
        upper = casing > 0.97
        typos = 0.06 if self.draw.random() < 0.3 else 0.0
        text, entities = "", []
        for segment, label in self.segments(pattern):
            if label != "CONTACT":
                segment = segment.lower() if lower else segment.upper() if upper else segment
                segment = re.sub(r"[^\W\d_]{4,}", lambda m: self._mistyped(m[0], typos), segment)
            if label:
                entities.append((len(text), len(text) + len(segment), label))
            text += segment
        return text, entities

    def _mistyped(self, word: str, rate: float) -> str:
        if self.draw.random() >= rate:
            return word
        at = self.draw.randrange(1, len(word) - 1)
        a, b = word[at], word[at + 1]
        return word[:at] + self.draw.choice([b + a, a, a + a + b]) + word[at + 2 :]


def make_corpus(seed: int) -> dict[str, list[str]]:
    """RETURNS (dict[str, list[str]]): Sentences by part, each as `token<TAB>tag` lines."""
    draw = random.Random(seed)
    patterns = shares(read_patterns(), draw)
    fillers = make_fillers(seed)
    nlp = spacy.blank("en")
    corpus: dict[str, list[str]] = {}
    for part, of_part in patterns.items():
        filler = Filler(fillers[part], draw)
        seen, sentences = set(), []
        for pattern in tqdm(of_part, desc=part, leave=False):
            for _ in range(FILLS[part]):
                text, entities = filler.written(pattern)
                doc = nlp.make_doc(text)
                spans = [doc.char_span(*entity) for entity in entities]
                # If a token were only partly in an entity, there would be nothing to learn.
                if text in seen or None in spans:
                    continue
                seen.add(text)
                doc.ents = spans
                sentences.append(
                    "\n".join(
                        f"{t.text}\t{t.ent_iob_}{'-' if t.ent_type_ else ''}{t.ent_type_}"
                        for t in doc
                        if not t.is_space
                    )
                )
        draw.shuffle(sentences)
        corpus[part] = sentences
    return corpus


def write_corpus(folder: Path, seed: int) -> None:
    """Write train.tsv, tune.tsv and dev.tsv.

    folder (Path): The folder.
    seed (int): Another seed makes another corpus.
    """
    corpus = make_corpus(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, sentences in corpus.items():
        text = "\n\n".join(sentences) + "\n"
        (folder / f"{part}.tsv").write_text(text, encoding="utf8")
        print(f"{part}: {len(sentences)} synthetic sentences")
    (folder / "SYNTHETIC.txt").write_text(f"{__doc__}\nSeed {seed}.\n", encoding="utf8")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for train.tsv, tune.tsv and dev.tsv")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_corpus(args.output, args.seed)


if __name__ == "__main__":
    main()
