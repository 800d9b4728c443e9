"""OM_hard of the categories of compression, library by library, as the paper's Table 5 has them."""

from collections.abc import Iterator

from harness.contract import Frozen
from orchestrator.evidence.categories import Category
from orchestrator.evidence.reading import Evidence
from orchestrator.score.sides import Asked, Figure, NoFigure, Selection, SideFigure, figures
from orchestrator.tracks import Mode, Track


class CategoryScore(Frozen):
    """The mean of OM_hard over a category's variants in one library, or over all libraries where `library` is None.

    `reason` says why there is no `figure`.
    """

    category: Category
    library: str | None
    figure: SideFigure | None = None
    reason: str | None = None


def category_scores(evidence: Evidence, mode: Mode = Mode.PAPER) -> tuple[CategoryScore, ...]:
    """Those of each category that the run has a variant of; nothing where no library was timed."""
    track = Track.HARDWARE_ACCELERATION
    expectation = next((one for one in evidence.expectations if one.track is track), None)
    if expectation is None:
        return ()
    there = {*evidence.categories.values()}
    libraries = (*expectation.parts, None)
    return tuple(one for category in Category if category in there for one in _row(category, libraries, evidence, mode))


def _row(
    category: Category, libraries: tuple[str | None, ...], evidence: Evidence, mode: Mode
) -> Iterator[CategoryScore]:
    for library in libraries:
        parts = () if library is None else (library,)
        asked = Asked(Selection(categories=(category,)), Figure(track=Track.HARDWARE_ACCELERATION, parts=parts))
        try:
            (found,) = figures([asked], evidence, mode)
        except NoFigure as none:
            yield CategoryScore(category=category, library=library, reason=str(none))
        else:
            yield CategoryScore(category=category, library=library, figure=found.document)
