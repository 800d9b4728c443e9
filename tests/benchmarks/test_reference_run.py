"""The reference run's own parts: pieces that arrive whole or not at all, lanes, workers forked from a warm process."""

import json
import threading
from pathlib import Path

import pytest

from benchmarks.h200.pieces import LIST_NAME, pack, unpack
from benchmarks.h200.warm import Lanes, WarmRuntime
from harness.contract import Device, DeviceKind, DirectoryModel, FetchParameters, Operation, ResultEvent, digest_tree
from orchestrator.images.catalog import ImageCatalog
from orchestrator.run.scheduling import End
from orchestrator.runtime.base import Ending, Invocation
from orchestrator.stages import Stage, StageOutput
from tests.support.zoo import zoo_folder

ROOT = Path(__file__).parents[2]


def test_what_is_packed_comes_out_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "input"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "one").write_bytes(bytes(range(256)) * 40)
    (folder / "two").write_text("text", encoding="utf-8")
    pieces = pack([folder], tmp_path / "pieces", pieces=3)
    assert len(pieces) == 3
    unpack(tmp_path / "pieces", tmp_path / "there")
    assert (tmp_path / "there" / "input" / "deep" / "one").read_bytes() == bytes(range(256)) * 40
    assert (tmp_path / "there" / "input" / "two").read_text("utf-8") == "text"


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_missing_or_altered_piece_is_refused_and_nothing_extracted(tmp_path: Path, damage: str) -> None:
    (tmp_path / "input").write_bytes(b"x" * 1000)
    second = pack([tmp_path / "input"], tmp_path / "pieces", pieces=2)[1]
    if damage == "missing":
        second.unlink()
    else:
        second.write_bytes(second.read_bytes()[:-1] + b"?")
    with pytest.raises(SystemExit, match="piece-002"):
        unpack(tmp_path / "pieces", tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_pieces_keep_to_their_size(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(Path(__file__).read_bytes() * 20)
    pieces = pack([tmp_path / "input"], tmp_path / "pieces", piece_bytes=500)
    assert all(piece.stat().st_size <= 500 for piece in pieces)
    assert set(json.loads((tmp_path / "pieces" / LIST_NAME).read_text("utf-8"))) == {piece.name for piece in pieces}


def stage(name: str, *needs: str, timed: bool = False) -> Stage:
    return Stage(
        id=name,
        image="image",
        operation=Operation.FETCH,
        parameters=FetchParameters(source=DirectoryModel(tree="0" * 64)),
        inputs={need: StageOutput(need) for need in needs},
        timed=timed,
    )


def test_a_timed_stage_runs_alone_and_others_side_by_side() -> None:
    lock, running, beside_timed = threading.Lock(), set[str](), []
    both = threading.Barrier(2, timeout=600)

    def work(one: Stage, perform: object) -> End:
        with lock:
            running.add(one.id)
            if "press" in running:
                beside_timed.append(set(running))
        if one.id in ("a", "b"):
            both.wait()
        with lock:
            running.discard(one.id)
        return End.RESULT

    stages = [stage("fetch"), stage("press", "fetch", timed=True), stage("a", "press"), stage("b", "press"), stage("c")]
    Lanes(3, threading.Event()).run(stages, work, lambda *_: None)
    assert beside_timed == [{"press"}]
    assert both.broken is False


def test_what_needs_a_failed_stage_is_skipped_with_the_cause() -> None:
    skipped: dict[str, str] = {}
    stages = [stage("bad"), stage("after", "bad"), stage("last", "after")]

    def work(one: Stage, perform: object) -> End:
        return End.NO_RESULT if one.id == "bad" else End.RESULT

    Lanes(2, threading.Event()).run(stages, work, lambda one, cause: skipped.__setitem__(one.id, cause))
    assert skipped == {"after": "bad", "last": "after"}


def fetching(folder: Path, tree: str) -> Invocation:
    return Invocation(
        image=ImageCatalog(ROOT / "images").images["fetch"],
        operation=Operation.FETCH,
        parameters=FetchParameters(source=DirectoryModel(tree=tree)),
        folder=folder,
        stage="fetch/zoo",
        run="run",
        inputs={"source": zoo_folder("llama-gqa-small")},
        device=Device(kind=DeviceKind.CPU),
    )


@pytest.mark.slow
def test_a_forked_worker_answers_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runtime = WarmRuntime(threads=1, variables={}, preload=())
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
    tree = digest_tree(zoo_folder("llama-gqa-small"))
    done = runtime.run(fetching(good, tree), lambda _: None, threading.Event())
    assert isinstance(done.final, ResultEvent)
    assert (done.ending, done.exit_code, done.violation) == (Ending.EXITED, 0, None)
    assert (good / "out" / "artifact" / "model.safetensors").is_file()
    refused = runtime.run(fetching(bad, "0" * 64), lambda _: None, threading.Event())
    assert refused.final is not None
    assert refused.exit_code == 2
    assert "not what the plan saw" in (bad / "stderr.log").read_text("utf-8")


def test_a_cancelled_worker_is_gone_before_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cancel = threading.Event()
    cancel.set()
    tree = digest_tree(zoo_folder("llama-gqa-small"))
    done = WarmRuntime(threads=1, variables={}, preload=()).run(fetching(tmp_path, tree), lambda _: None, cancel)
    assert done.ending is Ending.CANCELLED
    assert done.exit_code != 0
    assert done.final is None
