"""Whatever a worker leaves, its stage ends in one sentence, and the store goes on: other stages, runs, clean."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    RESULT_NAME,
    RESUME_NAME,
    CompressResult,
    ErrorCode,
    ErrorEvent,
    Event,
    Result,
    WorkRequest,
    describe_tree,
)
from orchestrator.evidence.reading import stored_results
from orchestrator.runtime.base import Completed, Ending, Invocation
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store import FailureKind, RunRecord, StageStatus
from orchestrator.store.cleaning import clean
from tests.host.test_what_others_left import DEEPER_THAN_A_PATH, TEBIBYTE, dig
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, write_descriptor

SMALL = {name: MANIFEST[name] for name in ("name", "models", "compress", "calibration")} | {
    "evaluate": {"tasks": ["arc_easy"], "limit": 60}
}
COMPRESS = "compress/tiny/sparsegpt-50%"
Leave = Callable[[Path], None]


class Leaving(FakeRuntime):
    """The honest worker, whose output is changed once it has ended: what it said before stands."""

    def __init__(self, leave: Leave, stage: str = COMPRESS, handler: Callable[..., Result] = honest_worker) -> None:
        super().__init__(handler)
        self._leave, self._stage = leave, stage

    def run(self, invocation: Invocation, on_event: Callable[[Event], None], cancel: object) -> Completed:
        completed = super().run(invocation, on_event, cancel)  # type: ignore[arg-type]
        if invocation.stage == self._stage:
            self._leave(invocation.output)
        return completed


def instead(make: Callable[[Path], None], name: str = RESULT_NAME) -> Leave:
    """What `make` puts in the place of a file or folder, which stays beside it under another name."""

    def leave(output: Path) -> None:
        (output / name).rename(output / "real")
        make(output / name)

    return leave


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 * TEBIBYTE)


def in_the_artifact(make: Callable[[Path], None]) -> Leave:
    return lambda output: make(output / ARTIFACT_NAME / "odd")


def no_text(path: Path) -> None:
    Path(os.fsdecode(bytes(path) + b"\xff")).touch()


def check_goes_on(bench: Bench, record: RunRecord) -> None:
    """The same store, afterwards: the other stages were done, it is read, the stage is made, and it is cleaned."""
    assert record.stages["evaluate/tiny/dense/arc_easy"].status is StageStatus.DONE
    assert stored_results(record, bench.store)
    assert list(bench.store.attempts.iterdir()) == []
    again = bench.run(FakeRuntime(honest_worker), SMALL)
    assert again.complete
    assert clean(bench.store, drop_run=again.run).unreadable == ()


@pytest.mark.parametrize(
    ("leave", "kind", "words"),
    [
        (instead(os.mkfifo), FailureKind.CONTRACT_VIOLATION, "result.json is not a regular file"),
        (instead(os.mkdir), FailureKind.CONTRACT_VIOLATION, "result.json is not a regular file"),
        (
            instead(lambda path: path.symlink_to("/dev/zero")),
            FailureKind.CONTRACT_VIOLATION,
            "result.json is a symbolic link",
        ),
        (
            instead(lambda path: path.symlink_to("real")),
            FailureKind.CONTRACT_VIOLATION,
            "result.json is a symbolic link",
        ),
        (instead(sparse), FailureKind.CONTRACT_VIOLATION, "more than the 67108864 that it may have"),
        (
            instead(lambda path: path.symlink_to("real"), ARTIFACT_NAME),
            FailureKind.BAD_ARTIFACT,
            "artifact is no folder, or a link to one",
        ),
        (
            instead(lambda path: path.symlink_to("/etc"), ARTIFACT_NAME),
            FailureKind.BAD_ARTIFACT,
            "artifact is no folder, or a link to one",
        ),
        (instead(os.mkfifo, ARTIFACT_NAME), FailureKind.BAD_ARTIFACT, "artifact is no folder"),
        (in_the_artifact(os.mkfifo), FailureKind.BAD_ARTIFACT, "odd is not a regular file"),
        (in_the_artifact(lambda path: path.symlink_to("/etc/shadow")), FailureKind.BAD_ARTIFACT, "odd is a symbolic"),
        (in_the_artifact(sparse), FailureKind.BAD_ARTIFACT, "odd says that it has 8796093022208 bytes"),
        (in_the_artifact(no_text), FailureKind.BAD_ARTIFACT, "U+DCFF"),
        (in_the_artifact(lambda path: Path(f"{path}\x1b[2J").touch()), FailureKind.BAD_ARTIFACT, "U+001B"),
        (
            lambda output: dig(output / ARTIFACT_NAME, DEEPER_THAN_A_PATH),
            FailureKind.BAD_ARTIFACT,
            "more than 32 folders within each other",
        ),
        (instead(os.mkfifo, f"{ARTIFACT_NAME}/{DESCRIPTOR_NAME}"), FailureKind.BAD_ARTIFACT, "is not a regular file"),
    ],
)
def test_what_no_worker_may_leave_fails_its_stage_in_one_sentence_and_the_store_goes_on(
    bench: Bench, leave: Leave, kind: FailureKind, words: str
) -> None:
    record = bench.run(Leaving(leave), SMALL)
    failure = record.stages[COMPRESS].failure
    assert failure is not None
    assert failure.kind is kind
    assert words in failure.message
    assert failure.message.isprintable()
    check_goes_on(bench, record)


def everything_else(output: Path) -> None:
    """What may lie beside the artifact: it is removed."""
    dig(output, DEEPER_THAN_A_PATH)
    sparse(output / "sparse")
    os.mkfifo(output / "pipe")
    (output / RESUME_NAME).symlink_to("/etc")
    (output / "link").symlink_to("/etc")


def test_of_an_output_what_the_result_speaks_of_is_kept_and_nothing_else(bench: Bench) -> None:
    record = bench.run(Leaving(everything_else), SMALL)
    assert record.complete
    stage = bench.store.stages / str(record.stages[COMPRESS].key)
    assert list((stage / OUTPUT_NAME).iterdir()) == []
    check_goes_on(bench, record)


@pytest.mark.parametrize(
    "leave", [lambda path: path.symlink_to("/etc"), os.mkfifo, lambda path: (path.mkdir(), dig(path, 2100))]
)
def test_what_cannot_be_gone_on_from_is_not_kept_for_the_next_attempt(bench: Bench, leave: Leave) -> None:
    def failing(request: WorkRequest, output: Path) -> Result | ErrorEvent:
        if request.id == COMPRESS:
            return ErrorEvent(id=request.id, code=ErrorCode.INTERNAL, message="failed", hint="none")
        return honest_worker(request, output)

    record = bench.run(Leaving(lambda output: leave(output / RESUME_NAME), handler=failing), SMALL)  # type: ignore[arg-type]
    assert record.stages[COMPRESS].status is StageStatus.FAILED
    assert list(bench.store.resumable.iterdir()) == []
    check_goes_on(bench, record)


def holding(**files: bytes) -> Callable[[WorkRequest, Path], Result]:
    """A compression with further files in its artifact, all of them described."""

    def worker(request: WorkRequest, output: Path) -> Result:
        made = honest_worker(request, output)
        if not isinstance(made, CompressResult):
            return made
        folder = output / ARTIFACT_NAME
        for name, content in files.items():
            (folder / name).write_bytes(content)
        described = describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME}))
        descriptor = write_descriptor(folder, made.artifact.model_copy(update={"files": described}))
        return made.model_copy(update={"artifact": descriptor})

    return worker


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"evil.bin": b"cos\nsystem\n."}, "evil.bin can run code when it is loaded"),
        ({"more.PKL": b""}, "more.PKL can run code when it is loaded"),
        ({"modeling.py": b""}, "modeling.py can run code when it is loaded"),
        ({"config.json": json.dumps({"auto_map": {"AutoModel": "evil.M"}}).encode()}, "names code to load with the"),
        ({"config.json": b"[" * 200_000}, "config.json cannot be read as JSON"),
    ],
)
def test_a_checkpoint_that_brings_code_is_refused(bench: Bench, files: dict[str, bytes], words: str) -> None:
    record = bench.run(FakeRuntime(holding(**files)), SMALL)
    failure = record.stages[COMPRESS].failure
    assert failure is not None
    assert failure.kind is FailureKind.BAD_ARTIFACT
    assert words in failure.message
    check_goes_on(bench, record)


def test_a_set_user_file_is_published_as_a_plain_one(bench: Bench) -> None:
    def leave(output: Path) -> None:
        (output / ARTIFACT_NAME / "model.safetensors").chmod(0o6777)

    record = bench.run(Leaving(leave), SMALL)
    assert record.complete
    modes = {path.stat().st_mode & 0o7777 for path in bench.store.artifacts.folder.glob("*/*")}
    assert modes == {0o444}


@pytest.mark.parametrize("poison", [os.mkfifo, lambda path: path.symlink_to("real.json"), sparse, os.mkdir])
@pytest.mark.parametrize("name", [RESULT_NAME, "provenance.json"])
def test_a_stored_stage_that_is_poisoned_is_made_again_and_stops_nothing(
    bench: Bench, name: str, poison: Callable[[Path], None]
) -> None:
    record = bench.run(FakeRuntime(honest_worker), SMALL)
    path = bench.store.stages / str(record.stages[COMPRESS].key) / name
    path.unlink()
    poison(path)
    cleaned = clean(bench.store, dry_run=True)
    assert [one.what for one in cleaned.unreadable] == [f"stages/{record.stages[COMPRESS].key}"]
    again = bench.run(FakeRuntime(honest_worker), SMALL)
    assert again.complete
    assert (again.stages[COMPRESS].status, again.stages["fetch/tiny"].status) == (StageStatus.DONE, StageStatus.CACHED)


@pytest.mark.parametrize(("resume_bytes", "is_kept"), [(100, True), (65 * 2**20, False)])
def test_what_filled_the_disk_goes_and_the_run_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, resume_bytes: int, is_kept: bool
) -> None:
    class Filling(Leaving):
        def run(self, invocation: Invocation, on_event: Callable[[Event], None], cancel: object) -> Completed:
            completed = super().run(invocation, on_event, cancel)
            fills = invocation.stage == COMPRESS
            return replace(completed, ending=Ending.KILLED_FOR_DISK, final=None) if fills else completed

    def leave(output: Path) -> None:
        (output / RESUME_NAME).mkdir()
        (output / RESUME_NAME / "so far").write_bytes(b"x" * resume_bytes)
        (output / ARTIFACT_NAME / "filling").touch()

    def usage(path: Path) -> SimpleNamespace:
        filled = any(bench.store.attempts.glob(f"*/{OUTPUT_NAME}/{ARTIFACT_NAME}/filling"))
        return SimpleNamespace(free=0 if filled else TEBIBYTE)

    monkeypatch.setattr("shutil.disk_usage", usage)

    record = bench.run(Filling(leave), SMALL)

    failure = record.stages[COMPRESS].failure
    assert failure is not None
    assert failure.kind is FailureKind.DISK_FULL
    assert "the disk below its output was almost full" in failure.message
    assert [path.name for path in bench.store.resumable.glob("*/*")] == (["so far"] if is_kept else [])
    check_goes_on(bench, record)


def test_a_lying_safetensors_header_is_refused(bench: Bench) -> None:
    header = struct.pack("<Q", 100 * 2**30) + b"{}"
    record = bench.run(FakeRuntime(holding(**{"model.safetensors": header})), SMALL)
    failure = record.stages[COMPRESS].failure
    assert failure is not None
    assert "its header would be 107374182400 bytes long" in failure.message


def test_an_interrupted_run_of_any_of_these_goes_on(bench: Bench) -> None:
    """The sweep of a later run finds an attempt of a dead orchestrator that nobody could remove."""
    dead = bench.store.attempts / f"{'0' * 64}@00000000@{os.uname().nodename}~1~1"
    (dead / OUTPUT_NAME).mkdir(parents=True)
    everything_else(dead / OUTPUT_NAME)
    assert bench.run(FakeRuntime(honest_worker), SMALL).complete
    assert list(bench.store.attempts.iterdir()) == []
