"""What answers a task's pieces: the job that it is given, and what it says of itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from harness.contract import Device, Dtype
from harness.evaluation.pieces import Answered, Piece

Report = Callable[[str], None]
"""Takes one sentence about an automatic choice, as it is made."""


@dataclass(frozen=True)
class EngineJob:
    """The model to load, and how to compute with it."""

    checkpoint: Path
    device: Device
    dtype: Dtype | None
    token_budget: int | None


@dataclass(frozen=True)
class EngineFacts:
    """What loading settled. `processes` have the model loaded."""

    dtype: Dtype
    dtype_reason: str
    load_seconds: float
    quantization_note: str | None
    processes: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenCounts:
    """`asked` is what one pass for each request would read; `computed` and `padding` went through the model.

    `operations` is what `Scorer.operations` says of it: None for a model of unknown shape.
    """

    asked: int = 0
    computed: int = 0
    padding: int = 0
    operations: int | None = 0

    def __add__(self, more: "TokenCounts") -> "TokenCounts":
        known = self.operations is not None and more.operations is not None
        return TokenCounts(
            self.asked + more.asked,
            self.computed + more.computed,
            self.padding + more.padding,
            (self.operations or 0) + (more.operations or 0) if known else None,
        )

    def __sub__(self, less: "TokenCounts") -> "TokenCounts":
        negative = None if less.operations is None else -less.operations
        return self + TokenCounts(-less.asked, -less.computed, -less.padding, negative)


class Engine(Protocol):
    """Answers pieces, once `facts` has waited for the model. `tokens` grow as they are answered."""

    @property
    def tokens(self) -> TokenCounts: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def facts(self) -> EngineFacts: ...

    def answers(self, pieces: Iterable[Piece]) -> Iterator[Answered]: ...
