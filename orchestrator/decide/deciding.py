"""From candidates, limits and weights to what is recommended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.decide.candidates import Candidate
from orchestrator.decide.limits import Judged, Standing, Verdict, judge, standing
from orchestrator.decide.ranking import Utility, certainly_worse, in_use, references, utility
from orchestrator.manifest.deciding import BROUGHT, Quantity

LIMIT_NAMES = {
    Quantity.LOSS: "the loss",
    Quantity.MEMORY: "memory",
    Quantity.DISK: "disk",
    Quantity.SPEED: "speed",
    Quantity.TIME: "the time to compress",
}


@dataclass(frozen=True)
class Picture:
    """All that is known of the candidates under limits and weights, by their numbers.

    `weights` are those that something was measured of. `utilities` are of those that the limits do not exclude and that
    have each quantity with a weight, `recommended` is one of them, or None for the reason `why_none`. `alike` are
    admitted, too, and cannot be told apart from it.
    """

    candidates: Sequence[Candidate]
    resamples: int
    limits: Sequence[Mapping[Quantity, Judged]]
    standings: Sequence[Standing]
    weights: Mapping[Quantity, float]
    utilities: Mapping[int, Utility]
    recommended: int | None
    alike: tuple[int, ...]
    why_none: str | None


def decide(
    candidates: Sequence[Candidate],
    limits: Mapping[Quantity, float],
    preferred: Mapping[Quantity, float],
    resamples: int,
) -> Picture:
    """What to recommend of the candidates: it certainly keeps every limit, and has the most utility of those that do.

    A compressed one has to be certainly better than dense, where dense keeps the limits too. All draws are of the same
    `resamples`.
    """
    judged = judge(candidates, limits)
    standings = [standing(one) for one in judged]
    weights = in_use(candidates, preferred)
    reference = references(candidates)
    utilities = {
        index: found
        for index, candidate in enumerate(candidates)
        if standings[index] is not Standing.EXCLUDED
        and (found := utility(candidate, reference, weights, resamples)) is not None
    }
    admitted = {index: one for index, one in utilities.items() if standings[index] is Standing.ADMITTED}
    recommended, alike = _recommended(candidates, admitted)
    why = None
    if not any(quantity in weights for quantity in BROUGHT):
        is_preferred = any(preferred.get(quantity) for quantity in BROUGHT)
        why, recommended, alike = _NOTHING_BROUGHT if is_preferred else _NOTHING_PREFERRED, None, ()
    elif recommended is None:
        why = _why_none(candidates, judged, standings)
    return Picture(candidates, resamples, judged, standings, weights, utilities, recommended, alike, why)


_NOTHING_PREFERRED = "memory, disk and speed are what compressing brings, and none of them is preferred"
_NOTHING_BROUGHT = (
    "of memory, disk and speed none that is preferred was measured, so that nothing shows what compressing would bring"
)


def _recommended(
    candidates: Sequence[Candidate], admitted: Mapping[int, Utility]
) -> tuple[int | None, tuple[int, ...]]:
    """The best of what is admitted, or dense where that cannot be told apart from it, and what else cannot be.

    Of equals it is the one that loses least, also where a loss has no weight.
    """

    def rank(index: int) -> tuple[float, float]:
        loss = candidates[index].amounts.get(Quantity.LOSS)
        return admitted[index].value, -1.0 if loss is None else -loss.value

    if not admitted:
        return None, ()
    best = max(admitted, key=rank)
    worse = certainly_worse(admitted[best], {index: one for index, one in admitted.items() if index != best})
    alike = [index for index in admitted if index not in worse]
    dense = [index for index in alike if candidates[index].variant.is_dense]
    chosen = max(dense, key=rank) if dense else best
    return chosen, tuple(index for index in alike if index != chosen)


def _why_none(
    candidates: Sequence[Candidate], judged: Sequence[Mapping[Quantity, Judged]], standings: Sequence[Standing]
) -> str:
    """Which limits stand against how many, those that exclude the most first."""
    if not candidates:
        return "nothing was measured of this model"
    if Standing.ADMITTED in standings:
        return "what keeps the limits lacks a quantity that is preferred"
    parts = []
    for verdicts, says in (
        ((Verdict.BROKEN,), "certainly break"),
        ((Verdict.PROBABLY_BROKEN, Verdict.CANNOT_TELL, Verdict.PROBABLY_KEPT), "are not certain to keep"),
        ((Verdict.NOT_MEASURED,), "were not measured for"),
    ):
        for quantity in judged[0]:
            count = sum(
                one[quantity].verdict in verdicts
                and not (one[quantity].by_figure_alone and one[quantity].verdict is Verdict.PROBABLY_KEPT)
                for one in judged
            )
            if count:
                parts.append(f"{count} of {len(candidates)} {says} the limit on {LIMIT_NAMES[quantity]}")
    return ", ".join(parts)
