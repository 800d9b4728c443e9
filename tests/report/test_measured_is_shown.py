"""Every number that a result can hold has its place in the report, and gets there as it was stored."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from harness.contract import Operation, WorkResult
from orchestrator.cli.app import app
from orchestrator.evidence.measured import Figure, StageFigures
from orchestrator.evidence.reading import read_evidence
from orchestrator.evidence.value import DENSE
from orchestrator.report.measured import measured_tables, repeats
from orchestrator.report.places import PLACES, Named, Part, Several, Shown
from orchestrator.report.table import Footnotes, Table
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import keeping_worker
from tests.support.telling_worker import telling_worker

ROUND = re.compile(r"/round-\d+(-again)?$")
RESULTS = {Operation(model.model_fields["operation"].default): model for model in get_args(WorkResult)}


def numeric_fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The path of each field of a document, at any depth, that holds numbers: by the types alone."""
    for name, field in model.model_fields.items():
        yield from _numeric(field.annotation, f"{path}.{name}" if path else name)


def _numeric(annotation: Any, path: str) -> Iterator[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _numeric(arguments[0], path)
    elif origin in (Union, UnionType, tuple):
        for one in arguments:
            yield from _numeric(one, path)
    elif origin in (dict, Mapping):
        yield from _numeric(arguments[1], path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from numeric_fields(annotation, path)
    elif isinstance(annotation, type) and issubclass(annotation, int | float):
        yield path
    else:
        assert annotation in (NoneType, Ellipsis) or origin is not None or isinstance(annotation, type), annotation


@pytest.mark.parametrize("operation", RESULTS)
def test_every_number_of_a_result_has_a_place_in_the_report(operation: Operation) -> None:
    there = set(numeric_fields(RESULTS[operation]))
    declared = set(PLACES[operation])
    assert there - declared == set(), "measured but not shown: say where in orchestrator/report/places.py"
    assert declared - there == set(), "no result has this any more"


def test_what_is_looked_for_is_found() -> None:
    found = set(numeric_fields(RESULTS[Operation.BENCHMARK]))
    assert {"speeds.token_latency.p99_seconds", "speeds.samples", "memory_parts.weight_bytes", "load_seconds"} <= found
    assert "macs" in set(numeric_fields(RESULTS[Operation.PROFILE]))
    assert {"artifact.rows", "artifact.files.size_bytes"} <= set(numeric_fields(RESULTS[Operation.FETCH]))


def test_only_rounds_of_one_measurement_are_made_one_figure_of(bench: Bench) -> None:
    evaluate = {"tasks": ["wikitext2", "arc_easy"], "fidelity": ["wikitext2"], "engine": ["transformers", "vllm"]}
    asked = {
        **MANIFEST,
        "compress": [{"method": "sparsegpt", "setting": setting} for setting in ("50%", "2:4")],
        "evaluate": {**evaluate, "limit": 60},
        "benchmark": {"backends": ["transformers", "native", "vllm"], "batch_sizes": [1]},
        "rounds": {"benchmark": 2, "profile": 2, "compress": 2},
    }
    record = bench.run(FakeRuntime(keeping_worker), asked)
    measured = read_evidence(record, bench.store, bench.catalog).measured
    assert {stage.operation for stage in measured} == set(Operation) - {Operation.EXPORT, Operation.DESCRIBE}
    for group in repeats(measured):
        apart = {ROUND.sub("", stage.stage) for stage in group}
        assert len(apart) == 1, "stages that do not measure the same"
    assert max(map(len, repeats(measured))) > 2


def invented(operation: Operation) -> StageFigures:
    """A stage that measured everything, each a number of its own, two where there can be several."""
    numbers = iter(range(11, 1000))
    figures: dict[str, dict[str, Figure]] = {}
    for field, place in PLACES[operation].items():
        labels = ["batch 1", "batch 4"] if field.startswith("speeds.") else [""]
        if isinstance(place, Shown) and place.several is not Several.ROWS:
            labels = [f"{label}, {name}".removeprefix(", ") for label in labels for name in ("one", "other")]
        figures[field] = {label: next(numbers) for label in labels}
    return StageFigures(
        stage="stage", source="key", operation=operation, model="tiny", variant=DENSE, target="target", figures=figures
    )


def shown(tables: tuple[Table, ...], part: Part, title: str, row: str) -> str:
    (table,) = (one for one in tables if one.title == part)
    (column,) = (number for number, column in enumerate(table.columns) if column.title == title)
    (cells,) = (cells for cells in table.rows if str(cells[2]) == " ".join(filter(None, ("target", row))))
    return str(cells[column])


@pytest.mark.parametrize("operation", RESULTS)
def test_every_figure_stands_in_its_own_column_and_row(operation: Operation) -> None:
    stage = invented(operation)
    tables = measured_tables([stage], Footnotes())
    for field, place in PLACES[operation].items():
        if isinstance(place, Named):
            assert place.where
            continue
        sharing = [name for name, other in PLACES[operation].items() if other == place or _shares(place, other)]
        for row in ("batch 1", "batch 4") if field.startswith("speeds.") else ("",):
            own = {
                label.removeprefix(row).removeprefix(", "): figure
                for label, figure in stage.figures[field].items()
                if label.startswith(row)
            }
            text = shown(tables, place.part, place.title, row)
            assert text.split(" / ")[sharing.index(field) :][: _length(place)] == _expected(place, own).split(" / ")


def _shares(place: Shown, other: Shown | Named) -> bool:
    return isinstance(other, Shown) and (other.part, other.title) == (place.part, place.title)


def _length(place: Shown) -> int:
    return 3 if place.several is Several.SPREAD else 1


def _expected(place: Shown, own: dict[str, int]) -> str:
    match place.several:
        case Several.LISTED:
            return ", ".join(f"{name} {place.text(number)}" for name, number in own.items())
        case Several.TOTAL:
            return f"{place.text(sum(own.values()))} in 2"
        case Several.SPREAD:
            least, most = sorted(own.values())
            return f"{place.text(least)} / {place.text((least + most) / 2)} / {place.text(most)} (other)"
        case _:
            (number,) = own.values()
            return place.text(number)


def test_repeated_measurements_of_the_same_share_a_row() -> None:
    stages = [
        invented(Operation.PROFILE).model_copy(
            update={"stage": f"round {number}", "figures": {"disk_bytes": {"": size}}}
        )
        for number, size in enumerate((300, 100, 200))
    ]
    (table,) = measured_tables(stages, Footnotes())
    assert [str(cell) for cell in table.rows[0]] == ["dense", "tiny", "target", "200 B (100 B to 300 B in 3 runs)"]


def test_a_figure_that_is_missing_for_a_reason_has_the_reason() -> None:
    speeds = {"speeds.decode_tokens_per_second": {"batch 1": 20.0, "batch 4": 60.0}}
    absent = {"speeds.token_latency": {"batch 4": "the library does not say"}}
    latency = {"speeds.token_latency.p50_seconds": {"batch 1": 0.5}}
    stage = invented(Operation.BENCHMARK).model_copy(update={"figures": speeds | latency, "absent": absent})
    footnotes = Footnotes()
    tables = measured_tables([stage], footnotes)
    assert shown(tables, Part.LATENCY, "Between tokens, p50", "batch 1") == "0.5 s"
    assert shown(tables, Part.LATENCY, "Between tokens, p50", "batch 4") == "\N{EN DASH} [1]"
    assert footnotes.entries == ((1, "the library does not say"),)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run whose workers fill every field of every result."""
    root = tmp_path_factory.mktemp("told") / "store"
    manifest = {**MANIFEST, "benchmark": {"backends": ["transformers"], "batch_sizes": [1, 4]}}
    record = Bench(root).run(FakeRuntime(telling_worker), manifest)
    assert record.complete, [state.failure for state in record.stages.values() if state.failure]
    return root


def answer(root: Path, *command: str) -> Any:
    found = CliRunner().invoke(app, [*command, "--store", str(root)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def leaves(document: Any) -> Iterator[float]:
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        for one in document:
            yield from leaves(one)
    elif isinstance(document, int | float):
        yield document


def test_every_number_of_every_stored_result_is_in_the_report_and_in_the_scores(told: Path) -> None:
    stored = {
        path.parent.name: json.loads(path.read_bytes())["result"] for path in (told / "stages").glob("*/result.json")
    }
    scores = answer(told, "score", "last", "--json")
    report = answer(told, "report", "last", "--format", "json", "--output", "-")
    assert report["scoring"] == scores
    found = {one["source"]: one for one in scores["measured"]}
    assert found.keys() == stored.keys() and len(stored) == 13
    for key, result in stored.items():
        assert Counter(leaves(found[key]["figures"])) == Counter(leaves(result)), found[key]["stage"]
        notes = result["notes"] if "notes" in result else result["artifact"]["notes"]
        assert found[key]["notes"] == notes


def test_figures_have_the_names_of_their_fields(told: Path) -> None:
    scores = answer(told, "score", "last", "--json")
    pruned = next(one for one in scores["measured"] if one["stage"] == "benchmark/tiny/sparsegpt-50%/transformers")
    assert (pruned["model"], pruned["variant"]["method"], pruned["target"]) == ("tiny", "sparsegpt", "transformers")
    assert pruned["figures"]["speeds.token_latency.p99_seconds"] == {"batch 1": 0.082, "batch 4": 0.082}
    assert pruned["figures"]["speeds.prefill_tokens_per_second"] == {"batch 1": 640, "batch 4": 2560}
    assert pruned["figures"]["speeds.samples"] == {"batch 1": [31, 29, 34], "batch 4": [124, 116, 136]}
    assert pruned["figures"]["speeds.telemetry.throttle_reasons"]["batch 4, sw_power_cap"] == 54
    assert pruned["figures"]["kv_cache_tokens"] == {"": 257}
    assert pruned["figures"]["speeds.bounds.possible"]["batch 4, weights read (bytes/s)"] == 2 * 206
    assert pruned["memory_method"] == "peak-rss"


def test_scores_of_one_track_hold_what_was_measured_for_it(told: Path) -> None:
    scores = answer(told, "score", "last", "--json", "--track", "5")
    assert {one["operation"] for one in scores["measured"]} == {"fetch", "benchmark"}
