"""One value against its reference. What cannot be compared is said, never replaced by a number."""

import math

GREATEST_RATIO = 1e12
"""Beyond it one of the two values cannot be a measurement, and its square would drown every other term."""


class Incomparable(Exception):
    """The two values give no ratio; the message says why, in a clause that a report can print."""


def ratio_of(value: float, reference: float, *, higher_is_better: bool, reference_name: str) -> float:
    """value / reference where higher is better, reference / value where lower is; at least 0.

    An infinite value that should be low (the perplexity of a broken model) gives 0, the limit of ever worse values:
    leaving it out would reward the worst.

    Raises:
        Incomparable: a value is negative, not a number, infinite otherwise, or a divisor of 0.
    """
    _check(reference, reference_name)
    if math.isinf(reference):
        raise Incomparable(f"{reference_name} is infinite")
    _check(value, "the value")
    if higher_is_better:
        if math.isinf(value):
            raise Incomparable("the value is infinite")
        dividend, divisor, divisor_name = value, reference, reference_name
    else:
        dividend, divisor, divisor_name = reference, value, "the value"
        if reference == 0:
            raise Incomparable(f"{reference_name} is 0, and lower is better")
    if divisor == 0:
        raise Incomparable(f"{divisor_name} is 0, so that there is no ratio to it")
    ratio = dividend / divisor
    if ratio > GREATEST_RATIO:
        raise Incomparable(f"the ratio of {dividend:g} to {divisor:g} is beyond {GREATEST_RATIO:g}")
    return ratio


def _check(value: float, what: str) -> None:
    if math.isnan(value):
        raise Incomparable(f"{what} is not a number")
    if value < 0:
        raise Incomparable(f"{what} is negative ({value:g})")
