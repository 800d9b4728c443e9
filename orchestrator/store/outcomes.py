"""A stored result is held against its parts: the outcomes of its items, and what else it was made of."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.contract import (
    RESULT_NAME,
    BenchmarkResult,
    EvaluateResult,
    FidelityResult,
    ProfileResult,
    Result,
    Sha256,
    digest_file,
)
from harness.contract.items import FidelityItem, Item
from orchestrator.figures.checking import Kept, check, of_other_answers
from orchestrator.figures.items_file import Contradiction, read_divergences, read_items
from orchestrator.figures.outcomes import Outcomes
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store.records import StageRecord
from orchestrator.store.versioned import Refused


class StoredOutcomes:
    """The outcomes of all stages in the folder `stages`."""

    def __init__(self, stages: Path) -> None:
        self._stages = stages
        self._checked: dict[Sha256, _Checked] = {}

    def damaged(self, record: StageRecord) -> Iterator[tuple[str, str]]:
        """The files of a stage's outcomes that are not as it kept them: the name within its folder, and why."""
        folder = self._stages / record.provenance.key
        for name, entry in record.provenance.files.items():
            path = folder / name
            if name == RESULT_NAME:
                continue
            if path.is_symlink() or not path.is_file():
                yield name, "it is missing"
            elif path.stat().st_size != entry.size_bytes:
                yield name, f"it has {path.stat().st_size} bytes, and {entry.size_bytes} were kept"
            elif digest_file(path) != entry.sha256:
                yield name, "it has another sha256 than when it was kept"

    def of(self, record: StageRecord) -> Outcomes | None:
        """The outcomes of the items of an evaluation, None of other stages. A result is held against its parts here.

        They are read once, and again where the file has changed since.

        Raises:
            Refused: the result is not what its parts give, or these are missing or damaged.
        """
        key, result = record.provenance.key, record.final.result
        if not isinstance(result, EvaluateResult | FidelityResult | ProfileResult | BenchmarkResult):
            return None
        known = self._checked.get(key)
        if known is None or known.result != result or known.stat != _stat(known.file):
            kept = self._kept(record)
            file = str(kept.path(result)) if isinstance(result, EvaluateResult | FidelityResult) else None
            stat = _stat(file)
            try:
                known = self._checked[key] = _Checked(result, file, stat, check(result, kept))
            except Contradiction as contradiction:
                raise Refused(f"{self._stages.name}/{key}", str(contradiction)) from contradiction
        return known.outcomes

    def items(self, record: StageRecord) -> tuple[Item, ...]:
        """The items of an evaluation by their numbers. Raises as `of` does; none for other stages."""
        result = record.final.result
        if self.of(record) is None or not isinstance(result, EvaluateResult):
            return ()
        return read_items(self._kept(record).outcomes(result))

    def divergences(self, record: StageRecord) -> tuple[FidelityItem, ...]:
        """What a comparison with the dense model found by item. Raises as `of` does; none for other stages."""
        result = record.final.result
        if not isinstance(result, FidelityResult):
            return ()
        self.of(record)
        return read_divergences(self._kept(record).outcomes(result))

    def contradicting_each_other(self, records: Mapping[str, StageRecord]) -> dict[str, Refused]:
        """Of results that stand by themselves, by the names of their stages, those that are not of one data set."""
        evaluations = {}
        for name, record in records.items():
            result, outcomes = record.final.result, self.of(record)
            if isinstance(result, EvaluateResult) and outcomes is not None:
                evaluations[name] = (result.task, outcomes)
        return {
            name: Refused(f"{self._stages.name}/{records[name].provenance.key}", reason)
            for name, reason in of_other_answers(evaluations)
        }

    def _kept(self, record: StageRecord) -> Kept:
        provenance = record.provenance
        outcomes = [entry.sha256 for name, entry in provenance.files.items() if name != RESULT_NAME]
        return Kept(
            folder=Path(f"{self._stages}/{provenance.key}/{OUTPUT_NAME}"),
            parameters=provenance.material.get("parameters", {}),
            data=str(provenance.material.get("inputs", {}).get("dataset", "")),
            sha256=outcomes[0] if outcomes else None,
        )


@dataclass(frozen=True)
class _Checked:
    """A result that was held against its parts, and the file of these as it was then, where it has one."""

    result: Result
    file: str | None
    stat: tuple[int, ...] | None
    outcomes: Outcomes | None


def _stat(path: str | None) -> tuple[int, ...] | None:
    """What changes when a file does; None where there is none."""
    if path is None:
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
