"""`artifact reproduce`: the run of an artifact, or a sample of it, once more and here; each value judged."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.contract import DeviceKind, Parameters, Sha256, digest_file, digest_of
from orchestrator.artifact.belonging import Packed, typed
from orchestrator.artifact.figures import make_figures
from orchestrator.artifact.judging import Side, judge_stage, why_other
from orchestrator.artifact.rejudging import judge_ratios, judge_scores
from orchestrator.artifact.reproduction import Conditions, Judgement, Kind, Reproduction, Sample, Verdict, Why
from orchestrator.artifact.sampling import drawn
from orchestrator.artifact.unpacked import unpacked
from orchestrator.artifact.verifying import open_packed, verify
from orchestrator.errors import BadManifest, Interrupted, OrchestratorError
from orchestrator.evidence.reading import read_evidence
from orchestrator.host.files import write_atomically
from orchestrator.manifest import Manifest
from orchestrator.plan.parts import part_of
from orchestrator.run.budget import watched
from orchestrator.run.progress import Display
from orchestrator.run.run import Run, Series, Setup
from orchestrator.run.scheduling import Executor, LocalExecutor
from orchestrator.score.scores import score_run
from orchestrator.store import RunRecord, StageRecord, StageState, StageStatus
from orchestrator.store.history import as_it_is

REPORT_NAME = "reproduction.json"
"""In the folder of the run that was made again."""
Prepare = Callable[[Manifest], Setup]


class DoesNotHold(OrchestratorError):
    """An artifact of which something is not so, so that nothing can be held against it."""


@dataclass(frozen=True)
class Asked:
    """`device` and `runtime` None: those of the run that was packed, as far as this machine has them."""

    sample: Sample
    device: str | None = None
    runtime: str | None = None


def reproduce(
    file: Path,
    asked: Asked,
    prepare: Prepare,
    display: Display,
    executor: Callable[[threading.Event], Executor] = LocalExecutor,
) -> Reproduction:
    """Run what is asked of an artifact, with the images and the harness that are here, and judge it.

    No code of the artifact is run. What was run already by the same request stays; its report is written beside its
    record.

    Raises:
        NoArtifact: there is no file.
        DoesNotHold: the artifact does not verify.
        BadManifest: its manifest cannot be run here, or nothing of it was asked for.
        Interrupted: it was stopped by hand; the same request goes on from there.
        OrchestratorError: as `prepare` and `Run.perform`.
    """
    begin = time.monotonic()
    verification = verify(file)
    if not verification.holds:
        failing = next(finding for check in verification.checks for finding in check.findings)
        raise DoesNotHold(
            f"{file.name} does not verify, so that nothing can be held against it: {failing.what}: {failing.reason}",
            hint="see `orchestrator artifact verify`",
        )
    with unpacked(file) as content:
        if digest_file(file) != verification.sha256:
            raise DoesNotHold(f"{file.name} was changed meanwhile", hint="run it again")
        packed, _ = open_packed(content)
        setup = prepare(_manifest(packed, asked))
        again = _Again(packed, setup, asked.sample, verification.sha256, display)
        record, is_spent = again.run(executor)
        display.note("reproduce: judging")
        others, judgements = again.judge(record, is_spent=is_spent)
    found = Reproduction(
        file=file.name,
        sha256=verification.sha256,
        run=packed.record.run,
        again=record.run,
        packed=_conditions(packed.record),
        here=_conditions(record),
        sample=asked.sample,
        seconds=time.monotonic() - begin,
        others=dict(others.most_common()),
        judgements=tuple(judgements),
    )
    report = setup.store.runs.folder / record.run / REPORT_NAME
    write_atomically(report, found.model_dump_json(indent=1))
    return found


def _manifest(packed: Packed, asked: Asked) -> Manifest:
    """What was asked then, for the kind of device and the runtime that it ran on unless others are asked for."""
    kinds = {stage.final.environment.device_kind for stage in packed.stages.values()}
    device = asked.device or ("cuda" if DeviceKind.CUDA in kinds else "cpu")
    runtime = asked.runtime or (packed.record.runtime if packed.record.runtime in ("docker", "process") else "auto")
    document = {**packed.record.manifest_document, "device": device, "runtime": runtime}
    try:
        return Manifest.model_validate(document)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        raise BadManifest(
            f"the manifest of the run is none of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint=f"check out its commit, {packed.contents.commit or 'which is not known'}",
        ) from invalid


def _conditions(record: RunRecord) -> Conditions:
    facts = record.facts
    return Conditions(
        device=facts.device_model,
        runtime=facts.runtime,
        version=facts.version,
        commit=facts.commit,
        threads=facts.threads,
    )


class _Again:
    """One reproduction: what of the run is planned here, what of that is run, and what came out."""

    def __init__(self, packed: Packed, setup: Setup, sample: Sample, sha256: Sha256, display: Display) -> None:
        self._packed = packed
        self._setup = setup
        self._display = display
        self._budget_seconds = sample.within_seconds
        planned = {stage.id: stage.parameters for stage in setup.plan.stages}
        self._elsewise = {name: _otherwise(packed.record.stages[name], planned.get(name)) for name in packed.stages}
        seconds = {
            name: stage.provenance.wall_seconds for name, stage in packed.stages.items() if self._elsewise[name] is None
        }
        self._wanted = drawn(setup.plan, seconds, sample)
        self._cancel = threading.Event()
        digest = {"reproduces": sha256, "manifest": setup.manifest.digest, "stages": sorted(self._wanted)}
        series = Series(f"{setup.manifest.name}-again", digest_of(digest))
        self._run = Run(setup, display, self._cancel, series)

    def run(self, executor: Callable[[threading.Event], Executor]) -> tuple[RunRecord, bool]:
        """The record of what was run, and whether it ended since its time was up."""
        setup = self._setup
        count, of = len(self._wanted), len(self._packed.stages)
        self._display.note(f"reproduce: {count} of {of} stages in {setup.store.root}")
        with watched(self._budget_seconds, self._cancel) as is_spent:
            try:
                self._run.perform(executor(self._cancel), part_of(setup.plan, lambda stage: stage.id in self._wanted))
            except Interrupted:
                if not is_spent.is_set():
                    raise
        record = as_it_is(setup.store, setup.store.runs.read(self._run.name)).record
        return record, is_spent.is_set()

    def judge(self, record: RunRecord, *, is_spent: bool) -> tuple[Counter[str], list[Judgement]]:
        """Why bytes need not be equal, by how often; and the judgements: of stages, of ratios, of scores."""
        packed, setup = self._packed, self._setup
        others: Counter[str] = Counter()
        judgements: list[Judgement] = []
        for name, stage in packed.stages.items():
            state = record.stages.get(name)
            found = self._result(state)
            not_run = self._why_not(name, state, is_spent=is_spent) if found is None else _itself(stage, found)
            if found is None or not_run is not None:
                says, why = not_run or ("", None)
                judgements.append(Judgement(what=name, kind=Kind.MEASURED, verdict=Verdict.NOT_RUN, says=says, why=why))
                continue
            if (other := why_other(stage, found)) is not None:
                others[other] += 1
            sides = Side(stage, packed.store), Side(found, setup.store)
            judgements += judge_stage(name, *sides, packed.contents.tolerances)
        scoring, tolerances = packed.contents.scoring, packed.contents.tolerances
        before = make_figures(packed.record, packed.store, packed.catalog, scoring, {})
        here = read_evidence(record, setup.store, setup.catalog, scoring.resampling)
        judgements += judge_ratios(before.evidence, here, tolerances)
        judgements += judge_scores(before.scores, score_run(here, scoring.mode))
        return others, judgements

    def _result(self, state: StageState | None) -> StageRecord | None:
        if state is None or not state.has_result or state.key is None:
            return None
        return self._setup.store.read(state.key)

    def _why_not(self, name: str, state: StageState | None, *, is_spent: bool) -> tuple[str, Why]:
        if (otherwise := self._elsewise[name]) is not None:
            return next(self._impossible(name), otherwise), Why.OTHERWISE
        if state is None:
            return "", Why.SAMPLE
        if is_spent and state.status in (StageStatus.PENDING, StageStatus.INTERRUPTED, StageStatus.RUNNING):
            return "", Why.TIME
        return (state.failure.message if state.failure is not None else state.status.value), Why.HERE

    def _impossible(self, name: str) -> Iterator[str]:
        """Why this machine's plan does not have the stage, where it says so."""
        subject = self._packed.record.stages[name].subject
        for one in self._setup.plan.not_planned:
            if one.subject == subject and one.backend in name.split("/"):
                yield one.message


def _itself(packed: StageRecord, found: StageRecord) -> tuple[str, Why] | None:
    """A result that was found instead of measured, since the store is the one that was packed."""
    if found.provenance.started != packed.provenance.started:
        return None
    return "it is the very result of the file: measure in another store", Why.HERE


def _otherwise(packed: StageState, planned: Parameters | None) -> str | None:
    """Why a stage is not the same here, in a clause; None where it is."""
    if planned is None:
        return "it is not planned here"
    before, now = (one.model_dump(mode="json") for one in (typed(packed.operation, packed.parameters), planned))
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return f"it is planned with other parameters here: {', '.join(differing)}" if differing else None
