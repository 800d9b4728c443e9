"""The store keeps what a rename published, recognises damage, and frees what nothing refers to."""

import hashlib
import json
import multiprocessing
import operator
import shutil
import threading
from pathlib import Path

import pytest

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    RESULT_NAME,
    RESUME_NAME,
    CheckpointDescriptor,
    CheckpointFormat,
    DeviceKind,
    Dtype,
    Environment,
    FetchResult,
    Operation,
    ResultEvent,
    Sparsity,
    canonical_json,
    describe_tree,
)
from orchestrator.errors import StoreError
from orchestrator.manifest import Manifest, ModelEntry
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store import (
    BadArtifact,
    Provenance,
    RunFacts,
    RunRecord,
    StageRecord,
    StageState,
    StageStatus,
    Store,
    now,
)
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.cleaning import clean, sweep_attempts

KEY = "a" * 64
OTHER_KEY = "b" * 64
DROPS = 200
"""Of one artifact by two at once: enough for each order in which the two can go on."""
ENVIRONMENT = Environment(
    harness_digest="0", python="3", platform="p", device_kind=DeviceKind.CPU, device_model="m", threads=1, libraries={}
)


def described(folder: Path) -> CheckpointDescriptor:
    """What lies in the folder as a dense checkpoint, with its descriptor beside it."""
    descriptor = CheckpointDescriptor(
        format=CheckpointFormat.DENSE,
        dtype=Dtype.FLOAT32,
        architecture="LlamaForCausalLM",
        parameter_count=1,
        source="dir:x",
        files=describe_tree(folder),
    )
    (folder / DESCRIPTOR_NAME).write_bytes(canonical_json(descriptor.model_dump(mode="json")))
    return descriptor


def checkpoint_in(output: Path, content: bytes = b"weights") -> CheckpointDescriptor:
    folder = output / ARTIFACT_NAME
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(content)
    return described(folder)


def result_in(output: Path, descriptor: CheckpointDescriptor) -> ResultEvent:
    final = ResultEvent(id="s", result=FetchResult(artifact=descriptor), environment=ENVIRONMENT, wall_seconds=1)
    (output / RESULT_NAME).write_text(final.model_dump_json(), encoding="utf-8")
    return final


def provenance(key: str, code: dict[str, str] | None = None) -> Provenance:
    material = {} if code is None else {"code": code}
    return Provenance(stage="s", key=key, material=material, runtime="fake", host="h", started=now(), wall_seconds=1)


def put(store: Store, key: str, content: bytes = b"weights", code: dict[str, str] | None = None) -> StageRecord:
    with store.attempt(key) as folder:
        final = result_in(folder / OUTPUT_NAME, checkpoint_in(folder / OUTPUT_NAME, content))
        return store.commit(folder, final, provenance(key, code))


def save_run(store: Store, name: str, *keys: str) -> None:
    planned = StageState(operation=Operation.FETCH, image="fetch", subject=None, parameters={})
    states = {f"s{at}": planned.reached(StageStatus.DONE, key=key) for at, key in enumerate(keys)}
    manifest = Manifest(name=name, models=(ModelEntry(name="m", source="dir:x"),))
    store.runs.save(
        RunRecord(
            run=name,
            manifest=manifest.model_dump(mode="json"),
            facts=RunFacts(manifest_digest=manifest.digest, runtime="fake", device_model="m"),
            decisions=(),
            stages=states,
            created=now(),
            updated=now(),
        )
    )


def test_a_store_that_was_taken_away_does_not_come_back_as_an_empty_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.make()
    store.root.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError), store.claim(KEY):
        pass
    assert not store.root.exists()


def test_what_is_committed_is_found_whole_and_write_protected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put(store, KEY)
    assert store.find(KEY) == record
    assert record.artifact is not None
    weights = store.artifacts.path(record.artifact.digest) / "model.safetensors"
    assert weights.read_bytes() == b"weights"
    assert weights.stat().st_mode & 0o222 == 0
    assert list(store.attempts.iterdir()) == []


def test_results_of_the_same_source_files_share_the_list_of_them_which_nobody_can_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other, third = (
        put(store, key * 64, code=code)
        for key, code in (("a", {"x.py": "1"}), ("b", {"x.py": "1"}), ("c", {"x.py": "2"}))
    )
    read = [store.read(record.provenance.key) for record in (one, other, third)]
    assert read == [one, other, third]
    codes = [record.provenance.material["code"] for record in read if record is not None]
    assert codes[0] is codes[1]
    assert codes[2] == {"x.py": "2"}
    for change in (
        lambda: codes[0].update(x=1),
        lambda: codes[0].pop("x.py"),
        lambda: operator.setitem(codes[0], "x", 1),
    ):
        with pytest.raises(TypeError, match="make a copy"):
            change()
    assert read[0] is not None
    assert Provenance.model_validate_json(read[0].provenance.model_dump_json()) == one.provenance


def test_nothing_is_found_before_the_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.attempt(KEY) as folder:
        result_in(folder / OUTPUT_NAME, checkpoint_in(folder / OUTPUT_NAME))
        assert store.find(KEY) is None
    assert store.find(KEY) is None


def test_a_result_whose_artifact_was_dropped_is_known_and_has_to_be_run_for_who_reads_that(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put(store, KEY)
    assert record.provenance.artifact is not None
    shutil.rmtree(store.artifacts.path(record.provenance.artifact))
    assert store.find(KEY) is None
    assert store.read(KEY) == record
    assert put(store, KEY) == record, "the same artifact again: runs refer to what was measured when it was first made"
    assert store.find(KEY) == record


def test_a_result_whose_artifact_was_cut_short_has_to_be_run_for_who_reads_that(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put(store, KEY)
    path = store.artifacts.path(str(record.provenance.artifact)) / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    assert (store.find(KEY), store.read(KEY)) == (None, record)


def test_of_several_who_drop_an_artifact_at_once_one_removes_it(tmp_path: Path) -> None:
    owners, digest = [Store(tmp_path).artifacts for _ in range(2)], "d" * 64
    start, freed = threading.Barrier(len(owners)), list[int | None]()

    def drop(artifacts: Artifacts) -> None:
        start.wait()
        freed.append(artifacts.drop(digest))

    for _ in range(DROPS):
        (owners[0].path(digest)).mkdir(parents=True)
        (owners[0].path(digest) / "weights").write_bytes(b"weights")
        owners[0].mark_passing(digest)
        for one in owners:
            one.want(digest)
        dropping = [threading.Thread(target=drop, args=(one,)) for one in owners]
        for thread in dropping:
            thread.start()
        for thread in dropping:
            thread.join()
        assert not owners[0].path(digest).exists()
        assert len([one for one in freed if one]) == 1
        freed.clear()
    for one in owners:
        one.close()


def test_an_artifact_that_is_kept_is_not_dropped_and_a_mark_without_an_artifact_is_cleaned_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = str(put(store, KEY).provenance.artifact)
    assert store.artifacts.drop(digest) == 0
    store.artifacts.mark_passing(digest)
    store.artifacts.keep(digest)
    assert store.artifacts.drop(digest) == 0
    assert store.artifacts.path(digest).is_dir()
    store.artifacts.mark_passing("e" * 64)
    store.artifacts.mark_passing(digest)
    assert {one.what for one in clean(store, dry_run=True).removed} >= {f"passing/{'e' * 64}"}
    clean(store)
    assert not store.artifacts.is_passing("e" * 64)


def test_an_artifact_that_another_stage_makes_again_stays_the_one_that_is_being_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.artifacts.path(str(put(store, KEY).provenance.artifact))
    before = folder.stat().st_ino
    assert put(store, "b" * 64).provenance.artifact == folder.name
    assert folder.stat().st_ino == before


@pytest.mark.parametrize("mischief", ["alter", "add", "drop", "link", "descriptor"])
def test_an_artifact_that_differs_from_its_descriptor_is_refused(tmp_path: Path, mischief: str) -> None:
    store = Store(tmp_path)
    with store.attempt(KEY) as folder:
        output = folder / OUTPUT_NAME
        final = result_in(output, checkpoint_in(output))
        weights = output / ARTIFACT_NAME / "model.safetensors"
        if mischief == "alter":
            weights.write_bytes(b"weightz")
        elif mischief == "add":
            (output / ARTIFACT_NAME / "extra.bin").write_bytes(b"")
        elif mischief == "drop":
            weights.unlink()
        elif mischief == "link":
            (output / ARTIFACT_NAME / "config.json").symlink_to("/etc/passwd")
        else:
            (output / ARTIFACT_NAME / DESCRIPTOR_NAME).write_text("{}", encoding="utf-8")
        with pytest.raises(BadArtifact):
            store.commit(folder, final, provenance(KEY))
    assert store.find(KEY) is None


def test_a_descriptor_in_another_way_of_writing_is_taken_by_its_values(tmp_path: Path) -> None:
    """Numbers without a fraction, no optional fields, spaces: what other JSON libraries write."""
    store = Store(tmp_path)
    with store.attempt(KEY) as folder:
        output = folder / OUTPUT_NAME
        descriptor = checkpoint_in(output).model_copy(
            update={"sparsity": Sparsity(pattern="unstructured", target=0.5, measured=0.0)}
        )
        final = result_in(output, descriptor)
        told = descriptor.model_dump(mode="json", exclude_none=True)
        told["sparsity"]["measured"] = 0
        (output / ARTIFACT_NAME / DESCRIPTOR_NAME).write_text(json.dumps(told, indent=2), encoding="utf-8")
        record = store.commit(folder, final, provenance(KEY))
    assert record.artifact is not None
    published = store.artifacts.path(record.artifact.digest) / DESCRIPTOR_NAME
    assert hashlib.sha256(published.read_bytes()).hexdigest() == record.artifact.digest
    assert store.find(KEY) == record


def test_a_descriptor_with_another_value_is_refused_by_the_fields_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.attempt(KEY) as folder:
        output = folder / OUTPUT_NAME
        descriptor = checkpoint_in(output)
        other = descriptor.model_copy(update={"parameter_count": descriptor.parameter_count + 1})
        (output / ARTIFACT_NAME / DESCRIPTOR_NAME).write_text(other.model_dump_json(), encoding="utf-8")
        with pytest.raises(BadArtifact, match="parameter_count"):
            store.commit(folder, result_in(output, descriptor), provenance(KEY))


def test_a_failed_attempt_is_kept_without_its_output(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.attempt(KEY) as folder:
        (folder / "stderr.log").write_text("boom", encoding="utf-8")
        (folder / OUTPUT_NAME / "big").write_text("x", encoding="utf-8")
        where = store.keep_failure(folder, KEY)
    assert (store.root / where / "stderr.log").read_text(encoding="utf-8") == "boom"
    assert not (store.root / where / OUTPUT_NAME).exists()


def test_cleaning_frees_what_no_run_refers_to_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept, freed = put(store, KEY, b"kept"), put(store, OTHER_KEY, b"freed")
    save_run(store, "run", KEY)
    assert clean(store, dry_run=True).removed
    assert store.find(OTHER_KEY) is not None
    removed = {one.what for one in clean(store).removed}
    assert freed.artifact is not None
    assert kept.artifact is not None
    assert removed == {f"stages/{OTHER_KEY}", f"artifacts/{freed.artifact.digest}"}
    assert store.find(KEY) is not None
    clean(store, drop_run="run")
    assert store.find(KEY) is None
    assert not store.artifacts.path(kept.artifact.digest).exists()


def test_cleaning_waits_for_no_one_but_refuses_beside_a_running_orchestrator(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.in_use(), pytest.raises(StoreError, match="in use"):
        clean(store)


def test_only_attempts_of_dead_owners_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_die_within_an_attempt, args=(tmp_path,))
    process.start()
    process.join()
    with store.attempt(KEY) as mine:
        assert len(list(store.attempts.iterdir())) == 2
        assert [name.split("@")[0] for name in sweep_attempts(store)] == [OTHER_KEY]
        assert mine.is_dir()


def test_what_an_attempt_left_to_go_on_from_is_there_for_the_next_until_one_succeeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.attempt(KEY) as first:
        (first / OUTPUT_NAME / RESUME_NAME).mkdir()
        (first / OUTPUT_NAME / RESUME_NAME / "block").write_text("done", encoding="utf-8")
        (first / OUTPUT_NAME / "other").write_text("not kept", encoding="utf-8")
    with store.attempt(KEY) as second:
        assert [path.name for path in (second / OUTPUT_NAME).iterdir()] == [RESUME_NAME]
        store.keep_failure(second, KEY)
    with store.attempt(KEY) as third:
        assert (third / OUTPUT_NAME / RESUME_NAME / "block").read_text(encoding="utf-8") == "done"
        descriptor = checkpoint_in(third / OUTPUT_NAME)
        store.commit(third, result_in(third / OUTPUT_NAME, descriptor), provenance(KEY))
    with store.attempt(KEY) as fourth:
        assert list((fourth / OUTPUT_NAME).iterdir()) == []
    assert not (store.stages / KEY / OUTPUT_NAME / RESUME_NAME).exists()


def test_what_a_killed_orchestrator_left_to_go_on_from_is_kept_by_the_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_die_within_an_attempt, args=(tmp_path,))
    process.start()
    process.join()
    sweep_attempts(store)
    with store.attempt(OTHER_KEY) as next_one:
        assert (next_one / OUTPUT_NAME / RESUME_NAME).is_dir()


def test_cleaning_frees_what_is_left_to_go_on_from_when_no_run_refers_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in (KEY, OTHER_KEY):
        with store.attempt(key) as attempt:
            (attempt / OUTPUT_NAME / RESUME_NAME).mkdir()
    save_run(store, "run", KEY)
    assert {one.what for one in clean(store).removed} == {f"resume/{OTHER_KEY}"}


def _die_within_an_attempt(root: Path) -> None:
    import os
    import signal

    with Store(root).attempt(OTHER_KEY) as attempt:
        (attempt / OUTPUT_NAME / RESUME_NAME).mkdir()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_claim_is_exclusive_and_who_comes_second_is_told_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(KEY) as first, store.claim(OTHER_KEY) as other, store.claim(KEY) as second:
        assert (first, other, second) == (True, True, False)
    with store.claim(KEY) as again:
        assert again


def test_runs_are_found_by_name_beginning_and_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="no run"):
        store.runs.load("last")
    save_run(store, "alpha-1", KEY)
    save_run(store, "alpha-2", KEY)
    assert store.runs.load("last").run == "alpha-2"
    assert store.runs.load("alpha-1").run == "alpha-1"
    with pytest.raises(StoreError, match="2 runs begin"):
        store.runs.load("alpha")


def test_a_run_record_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_run(store, "run", KEY)
    document = json.loads((store.runs.folder / "run" / "run.json").read_text(encoding="utf-8"))
    del document["sha256"]
    assert RunRecord.model_validate(document) == store.runs.load("run")
