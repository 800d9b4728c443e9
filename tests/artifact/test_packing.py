"""A run is packed whole, the same each time, and with nothing in it that is not others' business."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import rocrate
import zstandard

from harness.contract import digest_of
from orchestrator.artifact.archive import SUMS_NAME, read, write
from orchestrator.artifact.source import source_files
from orchestrator.artifact.withholding import Withholding
from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.host.files import remove
from orchestrator.store import RunRecord
from orchestrator.store.runs import Runs
from tests.artifact.packed import call, pack, small_run
from tests.support.small_runs import Bench

VALIDATOR = "roc-validator==0.13.0"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, RunRecord]:
    return small_run(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def packed(ran: tuple[Bench, RunRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "small.tar.zst"
    done = pack(ran[0].root, file)
    assert done.exit_code == 0, done.output
    return file


@pytest.fixture(scope="module")
def files(packed: Path) -> dict[str, bytes]:
    return {one.name: one.content() for one in read(packed)}


def test_it_holds_all_that_the_figures_follow_from(files: dict[str, bytes], ran: tuple[Bench, RunRecord]) -> None:
    _, record = ran
    for state in record.stages.values():
        folder = f"store/stages/{state.key}"
        assert {f"{folder}/{name}" for name in ("request.json", "result.json", "provenance.json")} <= files.keys()
        assert (f"{folder}/out/items.jsonl.zst" in files) is (state.operation == "evaluate")
    assert {"README.md", "artifact.json", "environment.json", "scores.json", "claims/paper.yaml"} <= files.keys()
    assert {"verdicts/paper.json", "images/torch/locks/cpu.txt", "images/base/Dockerfile"} <= files.keys()
    assert "source/harness/evaluation/evaluate.py" in files
    contents = json.loads(files["artifact.json"])
    assert contents["missing"] == ["checkpoints: --checkpoints packs them"] and contents["other_source"] == []
    assert json.loads(files["manifest.json"])["name"] == "small"


def test_every_file_has_a_checksum_that_a_common_tool_checks(
    files: dict[str, bytes], packed: Path, tmp_path: Path
) -> None:
    sums = dict(line.split("  ")[::-1] for line in files[SUMS_NAME].decode().splitlines())
    assert sums == {name: hashlib.sha256(one).hexdigest() for name, one in files.items() if name != SUMS_NAME}
    with packed.open("rb") as raw, zstandard.open(raw, "rb") as plain, tarfile.open(fileobj=plain, mode="r|") as tree:
        names = {entry.name.partition("/")[2]: (entry.mtime, entry.uid, entry.uname, entry.mode) for entry in tree}
    assert names == dict.fromkeys(files, (0, 0, "", 0o644))


def test_packed_again_elsewhere_it_is_the_same_bytes(
    ran: tuple[Bench, RunRecord], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path(shutil.copytree(ran[0].root, tmp_path / "elsewhere"))
    for number, path in enumerate(sorted(store.rglob("*"))):
        os.utime(path, (number, number))
    monkeypatch.chdir(tmp_path)
    assert pack(store, tmp_path / "again.tar.zst").exit_code == 0
    assert (tmp_path / "again.tar.zst").read_bytes() == packed.read_bytes()


def test_no_path_and_no_name_of_this_machine_is_in_it(files: dict[str, bytes], ran: tuple[Bench, RunRecord]) -> None:
    own = {name: one for name, one in files.items() if not name.startswith(("images/", "source/"))}
    for name, content in own.items():
        assert str(ran[0].root).encode() not in content and b"/tmp/" not in content, name
    (stage, *_) = [name for name in files if name.endswith("provenance.json")]
    assert json.loads(files[stage])["host"] == "withheld"
    requests = [json.loads(one) for name, one in files.items() if name.endswith("request.json")]
    assert {path for one in requests for path in one["inputs"].values()} == {
        "/in/checkpoint",
        "/in/dataset",
        "/in/calibration",
    }


def test_names_of_machines_are_in_it_where_that_is_asked_for(ran: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    assert pack(ran[0].root, tmp_path / "one", "--with-host").exit_code == 0
    hosts = {
        json.loads(one.content())["host"] for one in read(tmp_path / "one") if one.name.endswith("provenance.json")
    }
    assert hosts == {os.uname().nodename}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("data: from /srv/shared/datasets", "data: from …/datasets"),
        ("dir:/models/my-llama", "dir:…/my-llama"),
        ("cannot open '/home/me/a b.txt', or ~/cache/x", "cannot open '…/a b.txt', or …/x"),
        ("file:///srv/wheels/torch.whl", "…/torch.whl"),
        ("hub https://host.example/a/b and 3.5 items/s of /in/checkpoint", None),
        ("choice/hellaswag@lm-eval-0.4.13", None),
        ("Authorization: Bearer abcdef123456", "Authorization: withheld"),
        ("token=hf_abcdefghijklmnop1234", "withheld"),
        ("https://me:secret1@host.example/x", "https://withheld@host.example/x"),
        ("ran on build-7 by ada", "ran on withheld by withheld"),
        ("ada-model", None),
        ("ada", None),
    ],
)
def test_what_is_taken_out_of_texts(text: str, shown: str | None) -> None:
    withholding = Withholding(["build-7"], ["ada"])
    assert withholding.text(text) == (text if shown is None else shown)
    assert bool(withholding.counts) is (shown is not None)


def test_a_run_that_has_not_ended_is_packed_on_request_alone(ran: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    store = Path(shutil.copytree(ran[0].root, tmp_path / "store"))
    Runs(store / "runs").save(ran[1].model_copy(update={"ended": None}))
    with pytest.raises(OrchestratorError, match="has not ended"):
        pack(store, tmp_path / "one")
    assert not (tmp_path / "one").exists()
    done = pack(store, tmp_path / "one", "--incomplete")
    assert done.exit_code == 3 and "missing: the run has not ended" in done.stderr


def test_a_run_with_a_damaged_result_is_packed_on_request_alone(ran: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    store = Path(shutil.copytree(ran[0].root, tmp_path / "store"))
    key = ran[1].stages["evaluate/tiny/dense/arc_easy"].key
    (store / "stages" / str(key) / "out" / "items.jsonl.zst").write_bytes(b"")
    with pytest.raises(OrchestratorError, match=r"items\.jsonl\.zst"):
        pack(store, tmp_path / "one")
    done = pack(store, tmp_path / "one", "--incomplete")
    assert done.exit_code == 3 and f"missing: stages/{key}" in done.stderr
    packed = {one.name for one in read(tmp_path / "one")}
    assert f"store/stages/{key}/result.json" not in packed


def test_what_is_interrupted_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "one"
    file.write_bytes(b"before")

    def stop(*more: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.artifact.archive.sums_text", stop)
    with pytest.raises(KeyboardInterrupt):
        write(file, "run", {"a": b"1"})
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]


def test_checkpoints_are_in_it_where_they_are_asked_for_and_at_hand(
    ran: tuple[Bench, RunRecord], tmp_path: Path
) -> None:
    store = Path(shutil.copytree(ran[0].root, tmp_path / "store"))
    assert pack(store, tmp_path / "one", "--checkpoints").exit_code == 0
    found = {one.name for one in read(tmp_path / "one")}
    assert sum(name.endswith(".safetensors") for name in found if name.startswith("store/artifacts/")) == 2
    for folder in (store / "artifacts").iterdir():
        remove(folder)
    done = pack(store, tmp_path / "one", "--checkpoints")
    assert done.exit_code == 3 and "is not in the store any more" in done.stderr


def test_data_sets_are_in_it_where_their_licence_is_known_to_allow_it(
    ran: tuple[Bench, RunRecord], tmp_path: Path
) -> None:
    done = pack(ran[0].root, tmp_path / "one", "--data")
    assert "the data set c4, of which no licence is known here" in done.stderr
    named = [json.loads(one.content()) for one in read(tmp_path / "one") if one.name.endswith("llmcbench.json")]
    assert {one["name"] for one in named} == {"wikitext2", "arc_easy"}


def test_the_source_of_another_commit_is_named(ran: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    store = Path(shutil.copytree(ran[0].root, tmp_path / "store"))
    key = ran[1].stages["profile/tiny/dense"].key
    stage = store / "stages" / str(key)
    provenance = json.loads((stage / "provenance.json").read_bytes())
    provenance["material"]["code"]["harness/__init__.py"] = "0" * 64
    del provenance["sha256"]
    provenance["sha256"] = digest_of(provenance)
    (stage / "provenance.json").write_text(json.dumps(provenance))
    done = pack(store, tmp_path / "one")
    assert done.exit_code == 3 and "missing: the source of 1 results" in done.stderr
    (contents,) = [json.loads(one.content()) for one in read(tmp_path / "one") if one.name == "artifact.json"]
    assert contents["other_source"] == ["profile/tiny/dense"]


def test_source_of_a_commit_comes_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    (tmp_path / "harness").mkdir()
    (tmp_path / "images").mkdir()
    for name in ("harness/a.py", "images/b.toml"):
        (tmp_path / name).write_text("then")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "harness" / "a.py").write_text("now")
    monkeypatch.setattr("orchestrator.artifact.source.harness_folder", lambda: tmp_path / "harness")
    found = source_files(commit, ())
    assert found.files == {"source/harness/a.py": b"then", "images/b.toml": b"then"}
    assert found.origin == f"commit {commit}"
    named = source_files(f"{commit}-dirty", (), harness_of=commit)
    assert named.files["source/harness/a.py"] == b"then" and "images/fetch/image.toml" in named.files
    with pytest.raises(StoreError, match="there is no commit"):
        source_files(None, (), harness_of="0" * 40)


def test_a_file_of_claims_is_packed_with_its_verdicts(ran: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    assert pack(ran[0].root, tmp_path / "one", "--claims", "published").exit_code == 0
    packed = {one.name for one in read(tmp_path / "one")}
    assert {"claims/published.yaml", "verdicts/published.json"} <= packed and "claims/paper.yaml" not in packed


def test_the_metadata_name_what_is_there(files: dict[str, bytes], ran: tuple[Bench, RunRecord]) -> None:
    graph = {one["@id"]: one for one in json.loads(files["ro-crate-metadata.json"])["@graph"]}
    assert graph["./"]["mainEntity"] == {"@id": "manifest.json"}
    for part in graph["./"]["hasPart"]:
        assert any(name == part["@id"] or name.startswith(part["@id"]) for name in files), part
    assert graph["#run"]["instrument"] == {"@id": "manifest.json"}
    assert graph["#run"]["endTime"] == ran[1].ended.isoformat()


@pytest.mark.network
@pytest.mark.slow
def test_the_metadata_are_valid_by_the_profiles_own_validator(packed: Path, tmp_path: Path) -> None:
    """roc-validator needs another version of rich than this project, so it gets an environment of its own."""
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "-q", tmp_path / "venv"], check=True)
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "venv")}
    made = subprocess.run([uv, "pip", "install", "-q", VALIDATOR], env=environment, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{VALIDATOR} cannot be had: {made.stderr.strip().splitlines()[-1]}")
    with packed.open("rb") as raw, zstandard.open(raw, "rb") as plain, tarfile.open(fileobj=plain, mode="r|") as tree:
        tree.extractall(tmp_path / "crate")  # noqa: S202  what this test packed
    (crate,) = (tmp_path / "crate").iterdir()
    context = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"
    command = [tmp_path / "venv/bin/python", Path(__file__).parent / "validate_crate.py", crate, context]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert said["issues"] == [] and said["passed"] and said["checks"] > 50
    metadata = crate / "ro-crate-metadata.json"
    metadata.write_text(metadata.read_text().replace('"programmingLanguage"', '"tongue"'))
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert not said["passed"]


def test_nothing_to_do_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OrchestratorError, match="there is no run 'last'"):
        call("pack", "last", "--store", tmp_path, "--output", tmp_path / "one")
