"""Results of lm-evaluation-harness beside a run: shown, marked, and in nothing that is measured; or refused."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from orchestrator.store import Store
from orchestrator.store.verifying import verify_store
from tests.exchange.stored import call, export, unpacked

FILE = {
    "results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.625, "acc_stderr,none": 0.01, "acc_norm,none": 0.5}},
    "versions": {"arc_easy": 1.0},
    "n-shot": {"arc_easy": 0},
    "higher_is_better": {"arc_easy": {"acc": True, "acc_norm": True}},
    "n-samples": {"arc_easy": {"original": 2376, "effective": 2376}},
    "config": {"model": "hf", "model_args": "pretrained=org/name", "limit": None},
    "date": 1790000000.5,
    "model_name": "org/name",
    "lm_eval_version": "0.4.13",
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def store(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "store"))


def written(folder: Path, content: object = FILE) -> Path:
    path = folder / "results_2026-09-21T14-13-20.500000.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def score(store: Path) -> Any:
    return json.loads(call(store, "score", "last", "--json", "--resamples", "100"))


def test_it_is_shown_and_changes_no_figure(store: Path, tmp_path: Path) -> None:
    before = score(store)
    call(store, "import", str(written(tmp_path)), "--into", "last")
    after = score(store)
    (imported,) = after.pop("imported")
    assert before.pop("imported") == []
    assert after == before
    assert (imported["name"], imported["tool_version"], imported["evaluated"]) == (
        "org/name", "0.4.13", "2026-09-21T14:13:20.500000Z",
    )  # fmt: skip
    first = imported["figures"][0]
    assert (first["metric"], first["value"], first["standard_error"], first["protocol"]) == ("acc", 0.625, 0.01, "1.0")
    compared = ("compare", "last", "gptq", "awq", "--resamples", "100", "--track", "1")
    for text in (call(store, "score", "last", "--resamples", "100"), call(store, *compared)):
        assert "not measured here" in text and "org/name" in text
    call(store, "report", "last", "--format", "markdown", "--output", str(tmp_path))
    assert "## Imported, not measured here" in (tmp_path / "report.md").read_text("utf-8")


def test_what_was_exported_comes_back_as_it_was(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path, "lm-eval")
    (path,) = (tmp_path / "opt__wanda-2__4").glob("results_*.json")
    call(store, "import", str(path))
    (imported,) = score(store)["imported"]
    document = json.loads(path.read_text("utf-8"))
    wanted = {
        (task, key.partition(",")[0]): figure
        for task, row in document["results"].items()
        for key, figure in row.items()
        if "," in key
    }
    found = {(one["task"], one["metric"]): one["value"] for one in imported["figures"]}
    errors = {
        (one["task"], f"{one['metric']}_stderr"): one["standard_error"]
        for one in imported["figures"]
        if one["standard_error"] is not None
    }
    assert found | errors == wanted
    assert imported["name"] == "opt/wanda-2:4"


def test_the_same_file_twice_is_there_once_under_the_last_name(store: Path, tmp_path: Path) -> None:
    path = written(tmp_path)
    call(store, "import", str(path))
    call(store, "import", str(path), "--name", "theirs")
    assert [one["name"] for one in score(store)["imported"]] == ["theirs"]


def test_a_changed_record_is_named_by_verify(store: Path, tmp_path: Path) -> None:
    call(store, "import", str(written(tmp_path)))
    (kept,) = store.glob("runs/*/imported/*.json")
    before = len(verify_store(Store(store)).damages)
    kept.write_text(kept.read_text("utf-8").replace("0.625", "0.925"), encoding="utf-8")
    damages = verify_store(Store(store)).damages
    assert len(damages) == before + 1
    assert any(one.what.endswith(f"imported/{kept.name}") and "sha256" in one.reason for one in damages)


def changed(**fields: Any) -> dict[str, Any]:
    return {**FILE, **fields}


BAD = {
    "no JSON": ("{", "is no results file of lm-eval: Expecting"),
    "a list": ("[]", "is no results file of lm-eval"),
    "no results": (changed(results={}), "results"),
    "no figure": (changed(results={"arc_easy": {"acc": 0.5}}), "no figure"),
    "text for a figure": (changed(results={"arc_easy": {"acc,none": "0.5"}}), "results.arc_easy.acc,none is no number"),
    "a break in a name": (changed(results={"a\nb": {"acc,none": "0.5"}}), "results.a b.acc,none is no number"),
    "NaN": (changed(results={"arc_easy": {"acc,none": math.nan}}), "NaN, which is no number"),
    "infinity": (changed(results={"arc_easy": {"acc,none": math.inf}}), "Infinity, which is no number"),
    "more than a float": ('{"results": {"t": {"acc,none": 1e999}}}', "larger than any number"),
    "a whole number without end": ('{"results": {"t": {"acc,none": 1' + 400 * "0" + "}}}", "larger than any number"),
    "depth": ('{"results": ' + 100_000 * "[", "nested too deeply"),
    "too many figures": (changed(results={"t": {f"m{number},none": 0 for number in range(10_001)}}), "more than 10000"),
    "a date that is none": (changed(date=1e300), "date"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence(untouched: Path, tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    refused(untouched, written(tmp_path, content), reason)


def test_a_link_a_pipe_and_a_large_file_are_not_opened(untouched: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(written(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(2**40)
    for name, reason in {"link": "symbolic link", "pipe": "not a regular file", "large": "bytes"}.items():
        refused(untouched, tmp_path / name, reason)


def refused(store: Path, path: Path, reason: str) -> None:
    with pytest.raises(BadManifest) as found:
        CliRunner().invoke(app, ["import", str(path), "--store", str(store)], catch_exceptions=False)
    assert reason in found.value.message and "\n" not in found.value.message
    assert not list(store.glob("runs/*/imported"))


def test_names_of_others_are_shown_without_control_characters(store: Path, tmp_path: Path) -> None:
    path = written(tmp_path, changed(model_name="a\x1b[31m\nname", versions={"arc_easy": "v" * 1000}))
    call(store, "import", str(path))
    (imported,) = score(store)["imported"]
    assert imported["name"] == "a[31m name"
    assert len(imported["figures"][0]["protocol"]) < 300
