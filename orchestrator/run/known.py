"""What of a plan is known already, and what is left to run: shared by a run and by its preview."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.contract import Sha256
from orchestrator.stages import Stage, StageOutput
from orchestrator.store import StageRecord, Store, Unreadable

KeyOf = Callable[[Stage, dict[str, Sha256]], Sha256 | None]
"""A stage's key, given the digests of the artifacts that it reads; None where it cannot be told yet."""


@dataclass
class Known:
    """By stage ids. `keys` has also those of stages that are to run, where their inputs are known.

    `records` are the results that stand, `missing` the stages to run in the order of the plan. `unreadable` are results
    that were there and have to be made again, `refused` by their keys those among them that contradict others alone.
    `dropped` are results whose artifact is not there and will be read, so that it is made again.
    """

    keys: dict[str, Sha256] = field(default_factory=dict)
    records: dict[str, StageRecord] = field(default_factory=dict)
    missing: list[Stage] = field(default_factory=list)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    refused: dict[Sha256, StageRecord] = field(default_factory=dict)
    dropped: dict[str, StageRecord] = field(default_factory=dict)

    @property
    def stored(self) -> dict[str, StageRecord]:
        """All results, whether they stand or only say what will come out again."""
        return {**self.records, **self.dropped}

    @property
    def artifacts(self) -> dict[str, Sha256]:
        """The digests of what the known stages made for others."""
        found = {name: record.provenance.artifact for name, record in self.records.items()}
        return {name: digest for name, digest in found.items() if digest is not None}


def look_up(
    stages: Sequence[Stage], store: Store, key_of: KeyOf, is_whole: Callable[[StageRecord], bool] | None = None
) -> Known:
    """Follow results to the stages that read them. A result stands without its artifact where nobody will read that.

    `is_whole` says of an artifact that a stage to run reads whether it can; by default, whether it is there.
    """
    is_whole = is_whole or store.has_artifact
    known = Known()
    artifacts: dict[str, Sha256] = {}
    for stage in stages:
        if all(need in known.records for need in stage.needs):
            _read(stage, store, key_of(stage, inputs_of(stage, artifacts)), known)
            made = known.records[stage.id].provenance.artifact if stage.id in known.records else None
            if made is not None:
                artifacts[stage.id] = made
    for name, refused in store.outcomes.contradicting_each_other(known.records).items():
        known.unreadable[name] = refused
        known.refused[known.keys[name]] = known.records.pop(name)
    wanted: set[str] = set()
    for stage in reversed(stages):
        record = known.records.get(stage.id)
        if record is not None and (stage.id not in wanted or is_whole(record)):
            continue
        if record is not None:
            known.dropped[stage.id] = known.records.pop(stage.id)
        known.missing.append(stage)
        wanted.update(stage.needs)
    known.missing.reverse()
    return known


def _read(stage: Stage, store: Store, key: Sha256 | None, known: Known) -> None:
    if key is None:
        return
    known.keys[stage.id] = key
    try:
        record = store.read(key)
        if record is not None:
            store.outcomes.of(record)
            known.records[stage.id] = record
    except Unreadable as unreadable:
        known.unreadable[stage.id] = unreadable


def inputs_of(stage: Stage, artifacts: Mapping[str, Sha256]) -> dict[str, Sha256]:
    """The digests of the artifacts that the stage reads, by the names of its inputs."""
    return {name: artifacts[source.stage] for name, source in stage.inputs.items() if isinstance(source, StageOutput)}


def with_readers(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """The stage, all that hang on its output, and all that those need, in the order of `stages`."""
    wanted = {stage.id}
    for one in stages:
        if not wanted.isdisjoint(one.needs):
            wanted.add(one.id)
    for one in reversed(stages):
        if one.id in wanted:
            wanted.update(one.needs)
    return [one for one in stages if one.id in wanted]
