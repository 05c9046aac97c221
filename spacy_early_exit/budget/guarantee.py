"""The fastest setting that differs from full depth no more than allowed, at a given confidence.

Source: Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test: Calibrating Predictive
Algorithms to Achieve Risk Control", 2021: Hoeffding–Bentkus p-values, fixed-sequence testing.
"""

import math
from typing import Callable, List, NamedTuple, Optional, Sequence

MAX_DOCUMENTS = 100_000  # larger numbers need not be exact


class Verdict(NamedTuple):
    """The test result of one setting.

    mean (float): Mean over documents of the share of words that differ.
    p_value (float): How likely such a small mean would be if the expected share were above the
        bound.
    passed (bool): Whether that is unlikely enough.
    """

    mean: float
    p_value: float
    passed: bool


def hoeffding_bentkus(mean: float, documents: int, bound: float) -> float:
    """Test whether an expected value exceeds a bound.

    mean (float): Mean of independent values in [0, 1].
    documents (int): Number of documents.
    bound (float): The bound, in (0, 1).
    RETURNS (float): A p-value of "the expected value is above the bound", valid for any n.
    """
    if mean >= bound:
        return 1.0
    hoeffding = math.exp(-documents * _divergence(mean, bound))
    # Rounding errors must not make 3 of 3.0000000001.
    bentkus = math.e * _binomial_cdf(math.ceil(documents * mean - 1e-9), documents, bound)
    return min(1.0, hoeffding, bentkus)


def documents_needed(mean: float, bound: float, confidence: float) -> Optional[int]:
    """RETURNS (Optional[int]): The number of documents with which a setting would pass if their
    mean were this one; None: no number would do.

    mean (float): Mean of the shares that differ.
    bound (float): The bound.
    confidence (float): The confidence.
    """
    if mean >= bound:
        return None
    divergence = _divergence(mean, bound)
    if divergence <= 0:  # too small to distinguish from rounding errors
        return None
    most = math.ceil(-math.log(1 - confidence) / divergence)  # what Hoeffding's bound needs
    if most > MAX_DOCUMENTS:
        return most
    least = 1
    while least < most:
        middle = (least + most) // 2
        if hoeffding_bentkus(mean, middle, bound) <= 1 - confidence:
            most = middle
        else:
            least = middle + 1
    return most


def accept_in_order(
    settings: int, shares: Callable[[int], Sequence[float]], bound: float, confidence: float
) -> List[Verdict]:
    """Test settings one after the other until one fails; the last that passed is safe.

    Each test may use the whole error probability, since none follows a failure. The order must not
    depend on the documents.

    settings (int): Number of settings.
    shares (Callable[[int], Sequence[float]]): Returns the share of words that differ at a setting,
        for each of some independent documents.
    bound (float): What the expected share must not exceed.
    confidence (float): Probability that it does not, for the chosen setting.
    RETURNS (List[Verdict]): One for each setting that was tried. All passed, except perhaps the
        last.
    """
    tests: List[Verdict] = []
    for setting in range(settings):
        found = shares(setting)
        mean = math.fsum(found) / len(found)
        p_value = hoeffding_bentkus(mean, len(found), bound)
        tests.append(Verdict(mean, p_value, p_value <= 1 - confidence))
        if not tests[-1].passed:
            break
    return tests


def _divergence(mean: float, bound: float) -> float:
    """RETURNS (float): Kullback-Leibler divergence between two coins, in nats."""
    heads = mean * math.log(mean / bound) if mean > 0 else 0.0
    tails = (1 - mean) * math.log((1 - mean) / (1 - bound)) if mean < 1 else 0.0
    return heads + tails


def _binomial_cdf(most: int, trials: int, p: float) -> float:
    """RETURNS (float): Probability of at most ``most`` successes."""
    log_all = math.lgamma(trials + 1)
    terms = (
        math.exp(
            log_all
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(p)
            + (trials - k) * math.log1p(-p)
        )
        for k in range(min(most, trials) + 1)
    )
    return min(1.0, math.fsum(terms))
