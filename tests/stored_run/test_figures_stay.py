"""A run that the first version stored: its figures come out of the present one to the last digit."""

import json
import shutil
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.manifest import Manifest
from orchestrator.store import Store
from orchestrator.tracks import Track

FOLDER = Path(__file__).parent
ROUNDING = 1e-12
"""Relative: what another processor's vector instructions may make of a mean of thousands of draws."""


@cache
def expected() -> dict[str, Any]:
    return json.loads((FOLDER / "expected.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "store"
    with tarfile.open(FOLDER / "store.tar.gz") as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        packed.extractall(folder)  # noqa: S202  what this project packed
    return folder


def document(store: Path, *command: str) -> Any:
    done = CliRunner().invoke(app, [*command, "--json", "--store", str(store)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def scored(store: Path) -> Any:
    return document(store, "score", "last")


@pytest.fixture(scope="module")
def compared(store: Path) -> Any:
    return document(store, "compare", "last", "gptq", "awq")


def label(variant: dict[str, str | None]) -> str:
    return " ".join(part for part in (variant["method"] or "dense", variant["setting"]) if part)


def same(found: Any, wanted: Any) -> bool:
    """Equal; the ends of an interval and other resampled figures up to rounding."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, float) and isinstance(found, float | int):
        return found == pytest.approx(wanted, rel=ROUNDING, abs=ROUNDING)
    return bool(found == wanted)


@pytest.mark.parametrize("track", Track)
def test_scores_with_their_intervals_parts_coverage_and_reasons(scored: Any, track: Track) -> None:
    wanted = {one["variant"]: one for one in expected()["scores"] if one["track"] == track}
    found = {label(one["variant"]): one for one in scored["scores"] if one["track"] == track}
    assert found.keys() == wanted.keys() and len(wanted) == 8
    for name, one in wanted.items():
        own = found[name]
        assert own["value"] == one["value"], name
        for field in ("reason", "interval", "interval_reason"):
            assert same(own[field], one[field]), (name, field)
        assert {part["name"]: part["value"] for part in own["parts"]} == one["parts"]
        assert [own["coverage"]["values"], own["coverage"]["values_expected"]] == one["coverage"]
        assert [missing["reason"] for missing in own["coverage"]["missing"]] == one["missing"]


def test_every_value_with_its_interval_and_its_ratio(scored: Any) -> None:
    values = {(*place_key(one["place"]), label(one["variant"])): one for one in scored["values"]}
    ratios = {
        (*place_key(one["place"]), label(score["variant"])): one
        for score in scored["scores"]
        for one in score["ratios"]
    }
    assert len(expected()["values"]) == 180
    for one in expected()["values"]:
        key = (one["track"], one["part"], one["name"], one["model"], one["variant"])
        for field in ("value", "unit", "protocol", "metric", "items", "interval"):
            assert same(values[key][field], one[field]), (key, field)
        if one["ratio"] is not None:
            assert ratios[key]["ratio"] == one["ratio"], key
            assert same(ratios[key]["interval"], one["ratio_interval"]), key


def place_key(place: dict[str, Any]) -> tuple[Any, ...]:
    return place["track"], place["part"], place["name"], place["model"]


def test_how_stable_the_ranks_are(scored: Any) -> None:
    found = {one["track"]: one for one in scored["ranks"]}
    assert found.keys() == {one["track"] for one in expected()["ranks"]}
    for one in expected()["ranks"]:
        own = found[one["track"]]
        assert same(own["kendall_tau"], one["kendall_tau"])
        rows = {label(row["variant"]): row for row in own["variants"]}
        for row in one["variants"]:
            assert all(same(rows[row["variant"]][field], row[field]) for field in ("rank", "first", "keeps_rank"))


def test_the_difference_of_two_variants_in_every_track(compared: Any) -> None:
    wanted = expected()["comparison"]["tracks"]
    assert [one["track"] for one in compared["tracks"]] == [one["track"] for one in wanted]
    for own, one in zip(compared["tracks"], wanted, strict=True):
        assert all(same(own[field], one[field]) for field in one), (own, one)


def test_the_difference_of_two_variants_in_every_value(compared: Any) -> None:
    found = {place_key(one["place"]): one for one in compared["values"]}
    wanted = expected()["comparison"]["values"]
    assert len(found) == len(wanted)
    for one in wanted:
        own = found[one["track"], one["part"], one["name"], one["model"]]
        for field in ("a", "b", "difference", "interval", "items", "reason"):
            assert same(own[field], one[field]), (own["place"], field)
        assert same(own["resampled_p_value"], one["p_value"]), own["place"]


@pytest.mark.parametrize("kind", ["markdown", "html", "json"])
def test_a_report_is_written_of_it(store: Path, tmp_path: Path, kind: str) -> None:
    command = ["report", "last", "--format", kind, "--output", str(tmp_path), "--store", str(store)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (written,) = tmp_path.glob("report.*")
    text = written.read_text("utf-8")
    assert "llm-pruner" in text and "calibration: 8 sequences of 128 tokens" in text


def asked_otherwise(store: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The store, with what `change` makes of its run's manifest."""
    copy = Path(shutil.copytree(store, folder / "store"))
    (path,) = copy.glob("runs/*/run.json")
    record = json.loads(path.read_bytes())
    change(record["manifest"])
    path.write_text(json.dumps(record), encoding="utf-8")
    return copy


def test_what_no_manifest_may_say_any_more_costs_no_figure(store: Path, tmp_path: Path, scored: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest |= {"mood": "good", "compress": [], "name": "no name of today's", "limits": {"deadline_seconds": -1}}
        manifest["calibration"] = {"samples": 0}
        manifest["evaluate"] |= {"limit": {"no task": 0}, "processes": 0}
        manifest["benchmark"] |= {"options": {"no backend": {}}, "repeats": 0}
        manifest["scoring"]["mood"] = "good"
        manifest["models"][0]["mood"] = "good"

    changed = asked_otherwise(store, tmp_path, change)
    with pytest.raises(ValidationError):
        Manifest.model_validate(Store(changed).runs.load("last").manifest_document)
    found = document(changed, "score", "last")
    assert found["scores"] == scored["scores"]
    assert found["values"] == scored["values"]


def test_a_list_that_may_not_be_empty_any_more_leaves_all_that_was_measured(
    store: Path, tmp_path: Path, scored: Any
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["evaluate"] |= {"tasks": [], "engine": []}
        manifest["benchmark"] |= {"backends": [], "batch_sizes": []}

    changed = asked_otherwise(store, tmp_path, change)
    assert document(changed, "score", "last")["values"] == scored["values"]
    command = ["report", "last", "--format", "json", "--output", str(tmp_path), "--store", str(changed)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
