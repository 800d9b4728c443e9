"""`keep_checkpoints`: a checkpoint goes after its last reader, what is known of it stays, and it can be made again."""

import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import (
    CompressParameters,
    EvaluateParameters,
    FetchParameters,
    Operation,
    WorkRequest,
    WorkResult,
)
from orchestrator.errors import Interrupted
from orchestrator.manifest import KeepCheckpoints, Manifest
from orchestrator.run.keeping import Peak, Readers, peak_of
from orchestrator.run.preview import look_ahead
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.sizes import Footprint
from orchestrator.stages import Stage
from orchestrator.store import RunRecord
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

SETTINGS = ("40%", "50%", "2:4")
SMALL: dict[str, Any] = {
    **MANIFEST,
    "compress": [{"method": "sparsegpt", "setting": setting} for setting in SETTINGS],
    "benchmark": None,
}
NONE, LAST = ({**SMALL, "keep_checkpoints": keep} for keep in ("none", "last"))
COMPRESSED = tuple(f"compress/tiny/sparsegpt-{setting}" for setting in SETTINGS)


def there(bench: Bench, record: RunRecord) -> set[str]:
    """The stages whose artifacts lie in the store."""
    found = set()
    for name, state in record.stages.items():
        stored = bench.store.read(state.key or "")
        digest = None if stored is None else stored.provenance.artifact
        if digest is not None and bench.store.artifacts.path(digest).is_dir():
            found.add(name)
    return found


def data(record: RunRecord) -> set[str]:
    return {name for name in record.stages if name.startswith("data/")}


@pytest.mark.parametrize(
    ("manifest", "left"),
    [(SMALL, {"fetch/tiny", *COMPRESSED}), (LAST, set(COMPRESSED)), (NONE, set())],
    ids=["all", "last", "none"],
)
def test_what_is_kept_lies_there_in_the_end_and_every_result_is_whole(
    bench: Bench, manifest: dict[str, Any], left: set[str]
) -> None:
    record = bench.run(FakeRuntime(honest_worker), manifest)
    assert record.complete
    assert there(bench, record) == left | data(record)
    for name in COMPRESSED:
        stored = bench.store.read(record.stages[name].key or "")
        assert stored is not None
        assert stored.artifact is not None, "its digests"
        assert stored.provenance.material["parameters"]["method"] == "sparsegpt", "and how it was made"
    again = FakeRuntime(honest_worker)
    assert bench.run(again, manifest).complete
    assert again.requests == []


def test_one_compressed_checkpoint_is_there_at_a_time_where_none_is_kept(bench: Bench) -> None:
    seen: list[int] = []

    def counting(request: WorkRequest, output: Path) -> WorkResult:
        if isinstance(request.parameters, EvaluateParameters):
            seen.append(len(list(bench.store.artifacts.folder.iterdir())))
        return honest_worker(request, output)

    # With the data there: a device that waits for it would go on to the next checkpoint.
    assert bench.run(FakeRuntime(honest_worker), {**NONE, "compress": []}).complete
    record = bench.run(FakeRuntime(counting), NONE)
    assert record.complete
    assert max(seen) <= len(data(record)) + 2, "dense and one other"


def test_a_dropped_checkpoint_is_made_again_for_a_reader_that_comes_later_and_what_was_read_is_not(
    bench: Bench,
) -> None:
    first = bench.run(FakeRuntime(honest_worker), NONE)
    more = {**NONE, "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"], "limit": 60}}
    planned = bench.setup(FakeRuntime(honest_worker), more)
    missing = {stage.id for stage in look_ahead(planned).missing}
    assert {"fetch/tiny", *COMPRESSED} < missing
    assert not any("wikitext2" in name for name in missing)
    second = bench.run(FakeRuntime(honest_worker), more)
    assert second.complete
    assert {name: second.stages[name].key for name in COMPRESSED} == {
        name: first.stages[name].key for name in COMPRESSED
    }
    assert there(bench, second) == data(second)


def test_what_another_run_made_and_keeps_is_not_dropped(bench: Bench) -> None:
    kept = bench.run(FakeRuntime(honest_worker), {**SMALL, "name": "keeps"})
    more = {**NONE, "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"], "limit": 60}}
    assert bench.run(FakeRuntime(honest_worker), more).complete
    assert there(bench, kept) == {"fetch/tiny", *COMPRESSED, *data(kept)}


def stopped_at_50(bench: Bench, manifest: dict[str, Any]) -> None:
    """A run that is interrupted before its checkpoint of 50 % is made."""
    cancel = threading.Event()

    def stopping(request: WorkRequest, output: Path) -> WorkResult:
        if isinstance(request.parameters, CompressParameters) and request.parameters.setting.name == "50%":
            cancel.set()
            raise Interrupted("now")
        return honest_worker(request, output)

    with pytest.raises(Interrupted):
        bench.run(FakeRuntime(stopping), manifest, cancel=cancel)


def test_an_interrupted_run_goes_on_with_what_is_left_and_drops_that_too(bench: Bench) -> None:
    stopped_at_50(bench, NONE)
    runtime = FakeRuntime(honest_worker)
    record = bench.run(runtime, NONE)
    assert record.complete
    assert not any(isinstance(request.parameters, FetchParameters) for request in runtime.requests[:1])
    assert there(bench, record) == data(record)


def test_what_a_run_left_that_would_have_dropped_it_goes_with_the_next_that_reads_it_and_keeps_nothing(
    bench: Bench,
) -> None:
    stopped_at_50(bench, {**NONE, "name": "stopped"})
    record = bench.run(FakeRuntime(honest_worker), {**NONE, "name": "other"})
    assert record.complete
    assert there(bench, record) == data(record)


def test_what_a_run_left_that_would_have_dropped_it_stays_for_one_that_keeps_it(bench: Bench) -> None:
    stopped_at_50(bench, {**NONE, "name": "stopped"})
    kept = bench.run(FakeRuntime(honest_worker), {**SMALL, "name": "keeps"})
    left = there(bench, kept)
    assert left >= {"fetch/tiny", *COMPRESSED[1:]}
    assert bench.run(FakeRuntime(honest_worker), {**NONE, "name": "stopped"}).complete
    more = {**NONE, "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"], "limit": 60}}
    assert bench.run(FakeRuntime(honest_worker), more).complete
    assert there(bench, kept) == left


def test_what_another_orchestrator_still_wants_is_left_there_and_named(bench: Bench) -> None:
    other, notes = bench.store.artifacts, list[str]()

    class Noting(SilentDisplay):
        def note(self, text: str) -> None:
            notes.append(text)

    def wanting(request: WorkRequest, output: Path) -> WorkResult:
        if isinstance(request.parameters, EvaluateParameters):
            for path in bench.store.artifacts.folder.iterdir():
                other.want(path.name)
        return honest_worker(request, output)

    record = bench.run(FakeRuntime(wanting), NONE, Noting())
    other.close()
    assert there(bench, record) == {"fetch/tiny", *COMPRESSED, *data(record)}
    assert f"what {COMPRESSED[0]} made is left there: another orchestrator reads it" in notes


def test_two_orchestrators_on_one_store_make_nothing_twice_and_leave_nothing(bench: Bench) -> None:
    made: list[str] = []

    def worker(request: WorkRequest, output: Path) -> WorkResult:
        if isinstance(request.parameters, CompressParameters):
            made.append(request.parameters.setting.name)
        return honest_worker(request, output)

    records: list[RunRecord] = []
    running = [threading.Thread(target=lambda: records.append(bench.run(FakeRuntime(worker), NONE))) for _ in range(2)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert [record.complete for record in records] == [True, True]
    assert sorted(made) == sorted(SETTINGS)
    assert there(bench, records[0]) == data(records[0])


def test_what_is_kept_changes_nothing_of_what_is_asked() -> None:
    assert len({Manifest.model_validate(one).digest for one in (SMALL, NONE, LAST)}) == 1


def stages_of(bench: Bench, manifest: dict[str, Any]) -> tuple[Stage, ...]:
    return bench.setup(FakeRuntime(honest_worker), manifest).plan.stages


@cache
def small_stages() -> tuple[Stage, ...]:
    return stages_of(Bench(Path("none")), SMALL)


def test_the_peak_is_where_most_is_there_at_once() -> None:
    stages = small_stages()
    sizes = {"fetch/tiny": Footprint(10, 15), **{name: Footprint(8) for name in COMPRESSED}}
    assert peak_of(stages, sizes, KeepCheckpoints.ALL) == Peak(34, COMPRESSED[2], 34)
    assert peak_of(stages, sizes, KeepCheckpoints.LAST) == Peak(34, COMPRESSED[2], 24)
    assert peak_of(stages, sizes, KeepCheckpoints.NONE) == Peak(25, "fetch/tiny", 0)


@given(order=st.randoms(use_true_random=False), keep=st.sampled_from(KeepCheckpoints))
def test_in_any_order_a_checkpoint_goes_exactly_when_nobody_is_left_to_read_it(
    order: Any, keep: KeepCheckpoints
) -> None:
    stages = list(small_stages())
    readers = Readers(stages, keep)
    left = {stage.id: stage for stage in stages}
    gone: set[str] = set()
    for stage in _any_order(stages, order):
        assert gone.isdisjoint(stage.needs)
        del left[stage.id]
        gone |= set(readers.end(stage.id))
        unread = {one.id for one in stages if one.subject is not None and one.makes_artifact and one.id not in left}
        unread -= {need for one in left.values() for need in one.needs}
        if keep is KeepCheckpoints.LAST:
            unread -= set(COMPRESSED)
        assert gone == (set() if keep is KeepCheckpoints.ALL else unread)


def _any_order(stages: list[Stage], order: Any) -> Iterator[Stage]:
    done: set[str] = set()
    left = list(stages)
    while left:
        stage = order.choice([one for one in left if done.issuperset(one.needs)])
        left.remove(stage)
        done.add(stage.id)
        yield stage


def test_every_operation_that_leaves_something_is_dropped_where_nothing_is_kept() -> None:
    assert {Operation.FETCH, Operation.COMPRESS, Operation.EXPORT, Operation.STATES} == {
        one for one in Operation if Stage("s", "i", one, FetchParameters.model_construct()).makes_artifact
    }
