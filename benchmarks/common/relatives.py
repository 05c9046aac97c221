"""Other ways to leave early, and other decoders: how each is trained and measured."""

from dataclasses import dataclass
from pathlib import Path

from .curves import Block, Rows, criterion, f_at

SAVINGS = (1.5, 2.0, 3.0)
DIAL = "0,0.01,0.02,0.04,0.07,0.1,0.15,0.2,0.3,0.45,0.65"
CHANCES = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95,0.97,0.98,0.99,0.995,0.998,0.999"


@dataclass(frozen=True)
class Method:
    """One way to leave early, or to decode.

    trained_with (Block): The criterion that words leave by while training.
    measured_with (list[str]): ``--criterion`` of `curve.py`, every setting to choose from.
    dial (str): Thresholds.
    decoder (Block): The decoder.
    kv (str): Whether what left is attended to.
    training (Block): Settings of the second stage.
    """

    trained_with: Block
    measured_with: list[str]
    dial: str = DIAL
    decoder: Block | None = None
    kv: str = "copy"
    training: Block | None = None


TOKENS = ["TokenExit.v1 window=0", "TokenExit.v1 window=1"]
WORDS = criterion("TokenExit.v1", window=1)
REDUCTION = criterion("TokenReduction.v1", layers=[1, 3])
# Patience alone is a threshold of 1: words leave so in training, but for those that stay.
ON_OFF: Block = {"max_threshold": 1.0, "aggressive_share": 0.8, "full_share": 0.2}
PATIENT = [f"PatienceExit.v1 patience={p}" for p in (1, 2, 3, 4)]
METHODS = {
    "SENTEE": Method(criterion("SentenceExit.v1"), ["SentenceExit.v1"]),
    "TOKEE": Method(WORDS, TOKENS),
    "TOKEE, dropped": Method(WORDS, TOKENS, kv="drop"),
    "patience, words": Method(
        criterion("PatienceExit.v1", patience=1),
        PATIENT,
        dial="0,1",
        training=ON_OFF,
    ),
    "patience and confidence": Method(
        criterion("PatienceExit.v1", patience=1),
        [f"PatienceExit.v1 patience={p} window={w}" for p in (1, 2) for w in (0, 1)],
    ),
    "reduction, copied": Method(REDUCTION, ["TokenReduction.v1 layers=[1,3]"], CHANCES),
    "reduction, dropped": Method(REDUCTION, ["TokenReduction.v1 layers=[1,3]"], CHANCES, kv="drop"),
    "CRF": Method(WORDS, TOKENS, decoder=criterion("CRFDecoder.v1")),
    "AIN, first order": Method(WORDS, TOKENS, decoder=criterion("AINDecoder.v1", order=1)),
    "AIN, second order": Method(WORDS, TOKENS, decoder=criterion("AINDecoder.v1", order=2)),
    "AIN, leaving by beliefs": Method(
        criterion("BeliefExit.v1"),
        ["BeliefExit.v1 window=0", "BeliefExit.v1 window=1"],
        decoder=criterion("AINDecoder.v1", order=1),
    ),
}


def same_training(name: str) -> str:
    """RETURNS (str): The first method that is trained as this one."""
    method = METHODS[name]
    return next(
        other
        for other, its in METHODS.items()
        if (its.trained_with, its.decoder, its.kv, its.training)
        == (method.trained_with, method.decoder, method.kv, method.training)
    )


def folder_of(work: Path, name: str, seed: str) -> Path:
    """RETURNS (Path): Where a method's pipelines are."""
    return work / f"{same_training(name).replace(',', '').replace(' ', '-')}-{seed}"


def scores(found: dict[str, dict[str, Rows]]) -> dict[float, float]:
    """RETURNS (dict): F on dev by saving, with the setting that tune prefers at each."""
    by_saving = {1.0: next(iter(found["dev"].values()))[0]["ents_f"]}
    for saving in SAVINGS:
        by_saving[saving] = f_at(found["dev"][preferred(found["tune"], saving)], saving)
    return by_saving


def is_on_or_off(found: dict[str, dict[str, Rows]]) -> bool:
    """RETURNS (bool): Whether a method has no dial, as patience alone."""
    return all(len(rows) == 2 for rows in found["dev"].values())


def preferred(on_tune: dict[str, Rows], saving: float) -> str:
    """RETURNS (str): The setting that is best at a saving."""
    return max(on_tune, key=lambda setting: f_at(on_tune[setting], saving))
