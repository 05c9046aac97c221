"""The fastest setting that differs from full depth no more than allowed, with a confidence.

Source: Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test: Calibrating Predictive
Algorithms to Achieve Risk Control", 2021: Hoeffding–Bentkus p-values, fixed-sequence testing.
"""

import math
from typing import Callable, List, NamedTuple, Optional, Sequence

MAX_DOCUMENTS = 100_000  # more than that need not be told exactly


class Verdict(NamedTuple):
    """What one setting showed.

    mean (float): Mean over documents of the share of words that differ.
    p_value (float): How likely so small a mean would be, were the expected share above the bound.
    passed (bool): Whether that is unlikely enough.
    """

    mean: float
    p_value: float
    passed: bool


def hoeffding_bentkus(mean: float, documents: int, bound: float) -> float:
    """Test whether an expected value exceeds a bound.

    mean (float): Mean of independent values in [0, 1].
    documents (int): How many.
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
    """RETURNS (Optional[int]): With how many documents a setting would pass, were their mean
        this one; None: with no number.

    mean (float): Mean of the shares that differ.
    bound (float): The bound.
    confidence (float): The confidence.
    """
    if mean >= bound:
        return None
    divergence = _divergence(mean, bound)
    if divergence <= 0:  # so close that it is lost in rounding
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

    Each may use up the whole error probability, since none is tried after a failure. The order
    must not depend on the documents.

    settings (int): How many there are.
    shares (Callable[[int], Sequence[float]]): Share of words that differ, of each of some
        independent documents, at a setting.
    bound (float): What the expected share must not exceed.
    confidence (float): Probability with which it does not, for the setting that is chosen.
    RETURNS (List[Verdict]): Of the settings that were tried. All but perhaps the last passed.
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
    """RETURNS (float): Probability of at most so many successes."""
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
