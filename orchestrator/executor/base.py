"""The point of cut-off between which stages there are and when each runs."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from orchestrator.planning import Stage

Work = Callable[[Stage], bool]
"""Brings one stage to its end; False when it has no result, so that what needs it cannot run."""


class Executor(Protocol):
    def run(
        self, stages: Sequence[Stage], work: Work, skip: Callable[[Stage, str], None], *, done: Collection[str] = ()
    ) -> None:
        """Call `work` once for each stage whose needs succeeded, and `skip(stage, cause)` for the others.

        `done` names stages that succeeded before. `stages` come in an order in which each stands after what it needs.
        Raises whatever `work` raises, after the stages in flight have ended.
        """
        ...
