"""An artifact is held against its digests at its first use in a run; what is damaged is made again, and said."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    RESULT_NAME,
    ErrorEvent,
    WorkRequest,
    WorkResult,
)
from orchestrator.cli.app import app
from orchestrator.errors import Interrupted, StoreError
from orchestrator.host import hashing
from orchestrator.run import execution
from orchestrator.run.progress import SilentDisplay
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store import BadArtifact, RunRecord, StageStatus, Store
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.described import check_new, check_published
from orchestrator.store.verifying import Verification, Verifier, verify_store
from tests.store.test_store_keeps_and_frees import KEY, checkpoint_in, described, provenance, put, result_in
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, keeping_worker

MORE = {**MANIFEST, "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"], "limit": 60}}
PIQA = "evaluate/tiny/dense/piqa"


class Counting:
    """Counts the stages that really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        self.ran.append(request.id)
        return honest_worker(request, output)


class Noting(SilentDisplay):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def flip(path: Path) -> None:
    """One bit of one byte in the middle, and the size, the time and the mode as they were."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def weights(store: Store, record: RunRecord, stage: str) -> Path:
    stored = store.read(str(record.stages[stage].key))
    assert stored is not None
    return store.artifacts.path(str(stored.provenance.artifact)) / "model.safetensors"


def test_one_flipped_byte_is_found_at_the_first_use_and_the_artifact_is_made_again(bench: Bench) -> None:
    first = bench.run(FakeRuntime(honest_worker))
    path = weights(bench.store, first, "fetch/tiny")
    whole = path.read_bytes()
    flip(path)
    worker, display = Counting(), Noting()
    record = bench.run(FakeRuntime(worker), MORE, display)
    assert record.complete
    assert sorted(worker.ran) == ["data/piqa", PIQA, "evaluate/tiny/sparsegpt-50%/piqa", "fetch/tiny"]
    assert path.read_bytes() == whole
    assert record.stages["fetch/tiny"].status is StageStatus.DONE
    assert record.stages["evaluate/tiny/dense/arc_easy"].status is StageStatus.CACHED, "it was measured before"
    [said] = [one for one in display.notes if "damaged" in one]
    assert said.startswith("what fetch/tiny made is damaged and is made again: artifact ")
    assert said.endswith("model.safetensors has another sha256 than described")
    assert said in record.decisions
    assert said in bench.store.runs.load(record.run).decisions


def test_what_nobody_reads_is_not_hashed(bench: Bench) -> None:
    first = bench.run(FakeRuntime(honest_worker))
    flip(weights(bench.store, first, "fetch/tiny"))
    worker = Counting()
    assert bench.run(FakeRuntime(worker)).complete
    assert worker.ran == []


def test_every_input_of_a_stage_that_has_to_be_made_again_is_verified_as_well(bench: Bench) -> None:
    first = bench.run(FakeRuntime(honest_worker))
    for stage in ("fetch/tiny", "compress/tiny/sparsegpt-50%"):
        flip(weights(bench.store, first, stage))
    worker = Counting()
    record = bench.run(FakeRuntime(worker), MORE)
    assert record.complete
    assert {"fetch/tiny", "compress/tiny/sparsegpt-50%"} < set(worker.ran)
    assert len([one for one in record.decisions if "damaged" in one]) == 2


def test_an_artifact_that_is_found_while_the_run_is_at_work_is_verified_too(bench: Bench) -> None:
    """Its stage's key is known only once a stage before it has been made again."""
    first = bench.run(FakeRuntime(honest_worker))
    compressed = weights(bench.store, first, "compress/tiny/sparsegpt-50%")
    shutil.rmtree(bench.store.stages / str(first.stages["fetch/tiny"].key))
    flip(compressed)
    worker = Counting()
    record = bench.run(FakeRuntime(worker), MORE)
    assert record.complete
    assert "compress/tiny/sparsegpt-50%" in worker.ran
    assert [one for one in record.decisions if "what compress/tiny/sparsegpt-50% made is damaged" in one]


def test_what_lies_damaged_at_the_address_of_a_new_artifact_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put(store, KEY)
    path = store.artifacts.path(str(record.provenance.artifact)) / "model.safetensors"
    flip(path)
    assert put(store, KEY) == record
    assert path.read_bytes() == b"weights"


def test_nothing_is_hashed_while_devices_are_held_or_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.local()
    hashed: list[Any] = []
    hold, digest = execution.hold_devices, hashing._digest

    @contextmanager
    def holding(*arguments: Any) -> Iterator[None]:
        held.now = True
        try:
            with hold(*arguments):
                yield
        finally:
            held.now = False

    def hashing_in_a_pool(spans: Any, poll: Callable[[], None] = hashing.never) -> Any:
        assert not getattr(held, "now", False)
        hashed.append(spans)
        return {span: digest(span, poll, threading.Event()) for span in spans}

    monkeypatch.setattr(execution, "hold_devices", holding)
    monkeypatch.setattr("orchestrator.store.described.digests", hashing_in_a_pool)
    assert bench.run(FakeRuntime(honest_worker)).complete
    made = len(hashed)
    assert made >= 4, "each artifact when it is published"
    assert bench.run(FakeRuntime(honest_worker), MORE).complete
    assert len(hashed) - made == 3, "data/piqa when published; the model and the pruned one at their first use"


def test_a_run_verifies_each_artifact_once_and_again_where_a_file_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    record = put(store, KEY)
    calls: list[str] = []
    check = Artifacts.check

    def counting(self: Artifacts, digest: str, *arguments: Any) -> None:
        calls.append(digest)
        check(self, digest, *arguments)

    monkeypatch.setattr(Artifacts, "check", counting)
    verifier = Verifier(store, threading.Event(), lambda note: None)
    assert verifier.is_whole(record)
    assert verifier.is_whole(record)
    assert len(calls) == 1
    folder = store.artifacts.path(calls[0])
    (folder / "new").write_bytes(b"weightz")
    (folder / "new").replace(folder / "model.safetensors")
    assert not verifier.is_whole(record)
    assert len(verifier.damages) == 1
    assert not folder.exists()


def test_an_interrupted_run_stops_hashing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put(store, KEY)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Interrupted):
        Verifier(store, cancel, lambda note: None).is_whole(record)


def test_an_artifact_is_discarded_only_when_nobody_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.host.locks._QUIET_SECONDS", 0.0)
    store = Store(tmp_path)
    record = put(store, KEY)
    digest = str(record.provenance.artifact)
    flip(store.artifacts.path(digest) / "model.safetensors")
    cancel, notes = threading.Event(), []

    def note(message: str) -> None:
        notes.append(message)
        if "waits until nobody reads" in message:
            cancel.set()

    with store.artifacts.reading([digest], threading.Event()), pytest.raises(Interrupted):
        Verifier(store, cancel, note).is_whole(record)
    assert store.artifacts.path(digest).is_dir()
    assert not Verifier(store, threading.Event(), note).is_whole(record)
    assert not store.artifacts.path(digest).exists()
    with (
        pytest.raises(StoreError, match="was discarded meanwhile"),
        store.artifacts.reading([digest], threading.Event()),
    ):
        pytest.fail("there is nothing to read")


def test_one_large_file_is_verified_by_its_blocks_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "BLOCK_BYTES", 1000)
    store = Store(tmp_path)
    record = put(store, KEY, bytes(range(250)) * 10)
    digest, descriptor = str(record.provenance.artifact), record.artifact
    assert descriptor is not None
    spans: list[hashing.Span] = []
    compute = hashing._digest

    def seeing(span: hashing.Span, *rest: Any) -> str:
        spans.append(span)
        return compute(span, *rest)

    monkeypatch.setattr(hashing, "_digest", seeing)
    store.artifacts.check(digest, descriptor)
    assert sorted((one.begin, one.size_bytes) for one in spans) == [(0, 1000), (1000, 1000), (2000, 500)]
    path = store.artifacts.path(digest) / "model.safetensors"
    path.chmod(0o644)
    for place in (0, 999, 1000, 2499):
        content = bytearray(path.read_bytes())
        content[place] ^= 128
        path.write_bytes(content)
        with pytest.raises(BadArtifact, match=r"model\.safetensors has another sha256"):
            store.artifacts.check(digest, descriptor)
        content[place] ^= 128
        path.write_bytes(content)
    kept = store.artifacts.blocks / f"{digest}.json"
    kept.write_bytes(kept.read_bytes().replace(b"1000", b"1001"))
    spans.clear()
    store.artifacts.check(digest, descriptor)
    assert [one.size_bytes for one in spans] == [None], "without its blocks a file is hashed as a whole"


def test_of_several_large_files_each_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "BLOCK_BYTES", 1000)
    names = [f"{number}.safetensors" for number in range(3)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 200)
    descriptor = described(tmp_path)
    blocks = check_new(tmp_path, descriptor)
    assert {name: len(digests) for name, digests in blocks.files.items()} == dict.fromkeys(names, 3)
    check_published(tmp_path, descriptor, blocks=blocks)
    for name in names:
        flip(tmp_path / name)
        with pytest.raises(BadArtifact, match=f"{name} has another sha256 than described"):
            check_published(tmp_path, descriptor, blocks=blocks)
        (tmp_path / name).write_bytes(name.encode() * 200)


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ('{"auto_map": {"AutoModel": "modeling.Own"}}', "config.json names code to load with the model"),
        ('{"auto_map": ', "config.json cannot be read as JSON"),
        ('{"architectures": ["LlamaForCausalLM"]}', None),
    ],
)
def test_a_new_checkpoint_names_no_code_in_its_configuration(
    configuration: str, words: str | None, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    with store.attempt(KEY) as folder:
        output = folder / OUTPUT_NAME
        checkpoint_in(output)
        (output / ARTIFACT_NAME / "config.json").write_text(configuration, encoding="utf-8")
        (output / ARTIFACT_NAME / DESCRIPTOR_NAME).unlink()
        checkpoint = described(output / ARTIFACT_NAME)
        final = result_in(output, checkpoint)
        if words is None:
            assert store.commit(folder, final, provenance(KEY)).artifact == checkpoint
        else:
            with pytest.raises(BadArtifact, match=words):
                store.commit(folder, final, provenance(KEY))


def test_a_result_whose_artifact_is_no_folder_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.attempt(KEY) as folder:
        output = folder / OUTPUT_NAME
        final = result_in(output, checkpoint_in(output))
        (output / ARTIFACT_NAME).rename(folder / "real")
        (output / ARTIFACT_NAME).symlink_to(folder / "real")
        with pytest.raises(BadArtifact, match="no folder"):
            store.commit(folder, final, provenance(KEY))


def test_reading_what_a_worker_left_ends_with_the_stages_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1e9, *[2e9] * 100])
    monkeypatch.setattr(execution.time, "monotonic", lambda: next(clock))
    poll = execution._until(threading.Event(), 5.0)
    with pytest.raises(execution._TookTooLong):
        poll()


@pytest.fixture
def kept(bench: Bench) -> RunRecord:
    return bench.run(FakeRuntime(keeping_worker))


def verified(bench: Bench, *arguments: str) -> tuple[int, Verification]:
    found = CliRunner().invoke(
        app, ["store", "verify", "--json", "--store", str(bench.root), *arguments], catch_exceptions=False
    )
    return found.exit_code, Verification.model_validate_json(found.stdout)


def test_a_whole_store_is_verified_and_nothing_is_written(bench: Bench, kept: RunRecord) -> None:
    before = {path: path.stat().st_mtime_ns for path in bench.root.rglob("*")}
    status, found = verified(bench)
    assert (status, found.damages) == (0, ())
    assert (found.runs, found.results, found.artifacts) == (1, len(kept.stages), 5)
    assert found.artifact_bytes == sum(
        path.stat().st_size
        for path in bench.store.artifacts.folder.rglob("*")
        if path.is_file() and path.name != "llmcbench.json"
    )
    assert {path: path.stat().st_mtime_ns for path in bench.root.rglob("*")} == before


def test_each_damage_of_a_store_is_named_and_left_as_it_is(bench: Bench, kept: RunRecord) -> None:
    store = bench.store
    model = weights(store, kept, "fetch/tiny")
    flip(model)
    items = next((store.stages / str(kept.stages["evaluate/tiny/dense/arc_easy"].key) / "out").iterdir())
    flip(items)
    result = store.stages / str(kept.stages["profile/tiny/dense"].key) / RESULT_NAME
    flip(result)
    run = store.runs.folder / kept.run / "run.json"
    run.write_text(run.read_text("utf-8").replace('"test processor"', '"best processor"'), encoding="utf-8")
    stray = weights(store, kept, "compress/tiny/sparsegpt-50%").parent
    os.mkfifo(stray / "pipe")
    status, found = verified(bench)
    assert status == 3
    damages = {one.what: one.reason for one in found.damages}
    assert damages.keys() == {
        f"artifacts/{model.parent.name}",
        f"artifacts/{stray.name}",
        f"stages/{items.parent.parent.name}/out/{items.name}",
        f"stages/{result.parent.name}",
        f"runs/{kept.run}",
    }
    assert damages[f"artifacts/{model.parent.name}"] == "model.safetensors has another sha256 than described"
    assert "pipe" in damages[f"artifacts/{stray.name}"]
    assert damages[f"runs/{kept.run}"] == "its content does not have the sha256 that stands in it"
    assert verify_store(store).damages == found.damages
    text = CliRunner().invoke(app, ["store", "verify", "--store", str(bench.root)])
    assert text.exit_code == 3
    assert f"damaged: stages/{result.parent.name}: " in text.stdout


def test_a_changed_descriptor_and_a_changed_address_are_damages(bench: Bench, kept: RunRecord) -> None:
    folder = weights(bench.store, kept, "fetch/tiny").parent
    folder.rename(folder.with_name("0" * 64))
    _, found = verified(bench)
    [damage] = found.damages
    assert damage.what == f"artifacts/{'0' * 64}"
    assert "descriptor" in damage.reason


def test_verifying_where_there_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        CliRunner().invoke(app, ["store", "verify", "--store", str(tmp_path / "none")], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
