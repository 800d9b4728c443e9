"""Commands that only read leave no trace, in a store or where none is, and work where nothing can be written."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.store import Store
from orchestrator.store.cleaning import clean
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import keeping_worker

NOBODY = 65534
MANIFEST = Path(__file__).parents[2] / "manifests" / "quick.yaml"
READING = {
    "status": ["status"],
    "status of a run": ["status", "last"],
    "score": ["score", "last", "--resamples", "100"],
    "compare": ["compare", "last", "dense", "sparsegpt", "--resamples", "100"],
    "agreement": ["agreement", "last"],
    "report": ["report", "last"],
    "plan": ["plan", str(MANIFEST), "--runtime", "process"],
    "doctor": ["doctor"],
    "clean": ["clean", "--dry-run"],
    "store verify": ["store", "verify"],
}
NOWHERE = READING | {"clean of a run": ["clean", "--run", "last"]}
STORELESS = {"support": ["support"], "paper": ["paper"], "images list": ["images", "list"]}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    facts = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {str(path): (fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


def call(*arguments: str) -> int:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code


@pytest.mark.parametrize("name", NOWHERE)
def test_no_store_is_made_by_looking_for_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "here").mkdir()
    before = snapshot(tmp_path)
    try:
        status = call(*NOWHERE[name], "--store", str(tmp_path / "here" / "none"))
    except OrchestratorError as refused:
        assert "none" in refused.message
    else:
        assert status == 0
    assert snapshot(tmp_path) == before


def test_there_is_nothing_to_clean_where_no_store_is(tmp_path: Path) -> None:
    assert clean(Store(tmp_path / "none")).removed == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STORELESS)
def test_what_needs_no_store_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*STORELESS[name]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def read_by_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for every command, since none alters it."""
    bench = Bench(tmp_path_factory.mktemp("read") / "store")
    bench.run(FakeRuntime(keeping_worker))
    return bench.root


@pytest.mark.parametrize("name", READING)
def test_a_store_is_the_same_after_it_was_read(read_by_all: Path, tmp_path: Path, name: str) -> None:
    elsewhere = ["--output", str(tmp_path / "out")] if name == "report" else []
    before = snapshot(read_by_all)
    assert call(*READING[name], *elsewhere, "--store", str(read_by_all)) == 0
    assert snapshot(read_by_all) == before


def test_a_store_that_nobody_may_write_is_read_and_a_report_goes_where_it_can(bench: Bench, tmp_path: Path) -> None:
    bench.run(FakeRuntime(keeping_worker))
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    for path in (bench.root, *bench.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for name, arguments in READING.items():
        whole = [*arguments, "--store", str(bench.root)]
        first, second = [["--output", str(path)] if name == "report" else [] for path in (tmp_path / "first", out)]
        call(*whole, *first)  # imports what it needs while it may
        assert _as_nobody(tmp_path, partial(call, *whole, *second)) == 0, name

    def refused_to_run() -> int:
        with pytest.raises(StoreError) as caught:
            bench.run(FakeRuntime(keeping_worker))
        return 0 if "nothing can be written into the store" in caught.value.message and caught.value.hint else 1

    assert _as_nobody(tmp_path, refused_to_run) == 0

    def refused() -> int:
        with pytest.raises(StoreError) as caught:
            call("report", "last", "--store", str(bench.root))
        return 0 if "--output" in caught.value.hint else 1

    assert _as_nobody(tmp_path, refused) == 0


def _as_nobody(folder: Path, act: Callable[[], int]) -> int:
    """What `act` returns in a process of a user that may write nothing of ours; 99 if it raises anything."""
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if not mode & 0o005 and parent.name.startswith(("pytest-", "popen-", "test_")):
            parent.chmod(mode | 0o055)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
