"""The stages of a race, in the order of what they cost: checkpoints and their sizes, then speeds, then slices of items.

The race is one run whose plan is found out as it goes on. What of it has been measured lies in the store, by the keys
of stages; so a race that was interrupted takes the same steps again, and comes by itself to where it stopped.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from harness.contract import EvaluateParameters, Operation, Slice, digest_of
from orchestrator.decide.answer import Decision, ModelRace, RaceLook, RaceSummary
from orchestrator.decide.answering import decide_run, with_full_names
from orchestrator.decide.foreseeing import field_of
from orchestrator.errors import BadManifest, Interrupted
from orchestrator.evidence.gaps import counted_task
from orchestrator.evidence.reading import Evidence, read_evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Variant
from orchestrator.manifest.deciding import BROUGHT
from orchestrator.plan.parts import part_of
from orchestrator.race.display import RoundsDisplay
from orchestrator.race.raced import FIRST, RacedModel, costs_of, hopeless
from orchestrator.race.spending import Measured, spent
from orchestrator.race.wording import look_text
from orchestrator.run.budget import watched
from orchestrator.run.progress import Display
from orchestrator.run.run import Run, Series, Setup
from orchestrator.run.scheduling import Executor, LocalExecutor
from orchestrator.stages import Stage, Subject
from orchestrator.store import RunRecord, StageState, now
from orchestrator.tracks import Track, parts_of_task

_CHEAP = (Operation.COMPRESS, Operation.PROFILE)
_COSTS = (Operation.PROFILE, Operation.BENCHMARK)


@dataclass(frozen=True)
class Raced:
    """`record` holds the largest slice of each evaluation."""

    record: RunRecord
    decision: Decision

    @property
    def decided(self) -> bool:
        return self.decision.race is not None and self.decision.race.decided


def race(
    setup: Setup,
    display: Display,
    budget_seconds: float | None = None,
    executor: Callable[[threading.Event], Executor] = LocalExecutor,
    resampling: Resampling | None = None,
) -> Raced:
    """Run a race by the limits and the preference that the manifest has, for so many seconds at most.

    The answer rests on what was measured, drawn again by `resampling`.

    Raises:
        BadManifest: there is nothing to race, or nothing to decide by.
        Interrupted: it was stopped by hand; its record says so, and the same race goes on from there.
        OrchestratorError: as `Run.perform`.
    """
    cancel = threading.Event()
    conductor = _Conductor(setup, RoundsDisplay(display), cancel, executor(cancel), resampling or Resampling())
    with watched(budget_seconds, cancel) as is_spent:
        try:
            conductor.conduct()
        except Interrupted:
            if not is_spent.is_set():
                raise
            display.note("race: its time is up; what was finished is kept, and the same command goes on from there")
    return conductor.ended(budget_seconds)


class _Conductor:
    """`_record` is the run as far as it came, `_slices` are those of its evaluations by their stages' ids, None where
    all items were scored."""

    def __init__(
        self, setup: Setup, display: RoundsDisplay, cancel: threading.Event, executor: Executor, resampling: Resampling
    ) -> None:
        self._setup = setup
        self._resampling = resampling
        self._display = display
        self._asked = with_full_names(setup.manifest.decide, setup.catalog)
        digest = {"race": setup.manifest.digest, "decide": self._asked.model_dump(mode="json")}
        self._run = Run(setup, display, cancel, Series(f"{setup.manifest.name}-race", digest_of(digest)))
        self._executor = executor
        self._record: RunRecord | None = None
        self._slices: dict[str, Slice | None] = {}
        self._models: list[RacedModel] = []
        self._decisions: list[str] = []
        self._measured = Measured()
        self._is_over = False
        self._candidates = {stage.subject for stage in setup.plan.stages if stage.operation in _COSTS}
        self._raced = {stage.id: stage for stage in setup.plan.stages if self._is_raced(stage)}
        self._refuse_what_has_nothing_to_race()

    def conduct(self) -> None:
        """Until there is an answer of each model, or nothing more that could tell."""
        models = [one.name for one in self._setup.manifest.models]
        made = self._read(self._perform(self._is_cheap), drawn=True)
        anyhow = self._asked.model_copy(update={"backend": None, "batch": None})
        lost = {model: hopeless(costs_of(made, model, anyhow), self._asked) for model in models}
        for model, variants in lost.items():
            self._say(model, variants, "not timed, since what is known of the costs rules it out")
        wanted = [stage.id for stage in self._setup.plan.stages if self._is_cheap(stage) or _is_timed(stage, lost)]
        served = self._read(self._perform(lambda stage: stage.id in wanted), drawn=True)
        fields = {
            model: field_of(
                costs_of(served, model, self._asked), self._asked.limits, self._asked.prefer, self._resampling.resamples
            )
            for model in models
        }
        open_models = [model for model in models if fields[model].could_be_chosen]
        for model in models:
            out = set(fields[model].variants[1:]) - set(fields[model].could_be_chosen) - lost[model]
            self._say(model, out, "not evaluated, since what is known of the costs keeps it from being recommended")
        peeked = [
            one.id
            for one in self._raced.values()
            if one.subject is not None and one.subject.method is None and one.subject.model in open_models
        ]
        seen = self._score(wanted, dict.fromkeys(peeked, FIRST))
        self._models = [RacedModel.begin(seen, model, fields[model]) for model in models]
        while racing := [one for one in self._models if one.wanted()]:
            stages = self._stages_by_place()
            slices = {
                stages[one.model, variant, task]: slice_
                for one in racing
                for (variant, task), slice_ in one.wanted().items()
                if (one.model, variant, task) in stages
            }
            seen = self._score(wanted, slices)
            for one in racing:
                self._tell(one, one.look(seen))
        self._is_over = True

    def ended(self, budget_seconds: float | None) -> Raced:
        """What was found, with all that was finished."""
        begun = {one.model: one.summary() for one in self._models}
        summary = RaceSummary(
            models=tuple(
                begun.get(one.name) or ModelRace(model=one.name, decided=False) for one in self._setup.manifest.models
            ),
            spent=spent(self._setup, self._measured, self._raced),
            budget_seconds=budget_seconds,
        )
        record = self._kept(ends=self._is_over)
        decision = decide_run(self._read(record, drawn=True), self._asked)
        return Raced(record, decision.model_copy(update={"race": summary}))

    def _kept(self, *, ends: bool) -> RunRecord:
        """The record as it is saved; an evaluation that was stopped within a slice has its last whole one."""
        store, before = self._setup.store, {} if self._record is None else self._record.stages
        saved = store.runs.read(self._run.name)
        changes: dict[str, object] = {
            "stages": {
                name: state if state.has_result else before.get(name, state) for name, state in saved.stages.items()
            },
            "decisions": tuple(dict.fromkeys((*saved.decisions, *self._decisions))),
            "ended": now() if ends else None,
            "interrupted": not ends,
        }
        with store.in_use():
            store.runs.save(kept := saved.model_copy(update=changes))
        return kept

    def _perform(self, wanted: Callable[[Stage], bool], slices: Mapping[str, Slice | None] | None = None) -> RunRecord:
        part = part_of(self._setup.plan, wanted, slices)
        self._display.known = sum(_is_in(self._record, stage) for stage in part)
        self._record = self._run.perform(self._executor, part, tuple(self._decisions), ends=False)
        self._measured.add(self._record, self._setup.store)
        return self._record

    def _score(self, others: Collection[str], slices: Mapping[str, Slice | None]) -> Evidence:
        """With these slices, and no smaller ones than before. What was scored in full by another run is taken so."""
        plan = self._setup.plan
        whole = self._run.look_up(part_of(plan, lambda stage: stage.id in slices)).records
        for stage, slice_ in slices.items():
            held = self._slices.get(stage, FIRST)
            is_larger = held is not None and (slice_ is None or slice_.items >= held.items)
            self._slices[stage] = None if stage in whole else slice_ if is_larger else held
        all_slices = self._slices
        return self._read(self._perform(lambda stage: stage.id in others or stage.id in all_slices, all_slices))

    def _read(self, record: RunRecord, *, drawn: bool = False) -> Evidence:
        return read_evidence(record, self._setup.store, self._setup.catalog, self._resampling if drawn else None)

    def _stages_by_place(self) -> dict[tuple[str, Variant, str], str]:
        """The evaluation of each model, variant, and task by the name under which it counts."""
        found = {}
        for stage in self._raced.values():
            assert stage.subject is not None and self._record is not None  # noqa: S101  evaluations have one
            assert isinstance(stage.parameters, EvaluateParameters)  # noqa: S101  by their choice
            name = counted_task(stage.parameters.task, stage.subject, self._record, self._setup.catalog)
            found[stage.subject.model, Variant.of(stage.subject), name] = stage.id
        return found

    def _is_raced(self, stage: Stage) -> bool:
        """Whether a loss may be made of it: with right answers, by the engine that counts, of what has costs, too."""
        parameters, scoring = stage.parameters, self._setup.manifest.scoring
        if not isinstance(parameters, EvaluateParameters) or not self._is_candidate(stage.subject):
            return False
        task = self._setup.catalog.tasks[parameters.task][1]
        names = (task.name, *([task.stands_for] if task.stands_for else []))
        counts = any(track is Track.PERFORMANCE for name in names for track, _ in parts_of_task(name, scoring))
        return counts and task.higher_is_better and parameters.engine == self._setup.catalog.full_name(scoring.engine)

    def _is_candidate(self, subject: Subject | None) -> bool:
        return subject in self._candidates

    def _is_cheap(self, stage: Stage) -> bool:
        return stage.operation in _CHEAP and self._is_candidate(stage.subject)

    def _say(self, model: str, variants: Iterable[Variant], why: str) -> None:
        if labels := ", ".join(sorted(one.label for one in variants)):
            self._decide_on(f"race: {model}: {labels}: {why}")

    def _tell(self, raced: RacedModel, look: RaceLook | None) -> None:
        if look is None:
            why = raced.without[-1].reason if raced.without else "dense could not be scored"
            self._decide_on(f"race: {raced.model}: nothing is left to be scored: {why}")
            return
        self._decide_on(f"race: {raced.model}: {look_text(look)}")

    def _decide_on(self, line: str) -> None:
        self._display.note(line)
        self._decisions.append(line)

    def _refuse_what_has_nothing_to_race(self) -> None:
        """Raises BadManifest."""
        hint = "run it in full: `orchestrator run`"
        if not self._raced:
            raise BadManifest("the manifest has no task of track 1 with right answers to race on", hint=hint)
        if not any(self._asked.prefer.get(quantity) for quantity in BROUGHT):
            listed = ", ".join(quantity.value for quantity in BROUGHT)
            raise BadManifest(f"none of {listed} is preferred, so that nothing speaks for compressing", hint=hint)


def _is_in(record: RunRecord | None, stage: Stage) -> bool:
    """Whether the record has a result of this very stage."""
    state = None if record is None else record.stages.get(stage.id)
    return state is not None and state.has_result and state.parameters == StageState.planned(stage).parameters


def _is_timed(stage: Stage, lost: Mapping[str, Collection[Variant]]) -> bool:
    subject = stage.subject
    if stage.operation is not Operation.BENCHMARK or subject is None:
        return False
    return Variant.of(subject) not in lost[subject.model]
