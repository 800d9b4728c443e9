"""A report as one flat table: a row a figure, for spreadsheets and data frames."""

import csv
import io
from collections.abc import Iterator, Sequence

from pydantic import AwareDatetime, ConfigDict, PositiveInt

from harness.contract import Frozen
from orchestrator.errors import StoreError
from orchestrator.report.model import RunReport

OVERALL = "overall"
"""The part of an overall metric's row."""


class FigureRecord(Frozen):
    """One figure, unrounded. `low` and `high` are the ends of its interval, None where it has none; `value` is None
    where it is missing, for the `reason`. An overall metric has `OVERALL` as its part, and no model."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    run: str
    created: AwareDatetime
    device: str
    runtime: str
    track: int
    part: str
    name: str
    model: str | None
    method: str
    setting: str | None
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    items: PositiveInt | None = None
    protocol: str | None = None
    reason: str | None = None


def records(report: RunReport) -> tuple[FigureRecord, ...]:
    """Overall metrics, then every value, then what is missing."""
    return (*_scores(report), *_values(report), *_missing(report))


def render_csv(reports: Sequence[RunReport]) -> str:
    """With one line of names; an empty field is a figure that is not there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FigureRecord.model_fields)
    for report in reports:
        for row in records(report):
            writer.writerow(row.model_dump(mode="json").values())
    return text.getvalue()


def render_parquet(reports: Sequence[RunReport]) -> bytes:
    """The same columns, with types.

    Raises:
        StoreError: pyarrow is not there.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as absent:
        raise StoreError(
            "Parquet is written with pyarrow, which is not installed", hint="pip install pyarrow, or take csv"
        ) from absent
    text, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    types = dict.fromkeys(FigureRecord.model_fields, text) | dict.fromkeys(("value", "low", "high"), number)
    types |= {"track": whole, "items": whole, "higher_is_better": pyarrow.bool_()}
    types["created"] = pyarrow.timestamp("us", "UTC")
    rows = [row.model_dump() for report in reports for row in records(report)]
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(list(types.items())))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    document: bytes = sink.getvalue().to_pybytes()
    return document


def _of_run(report: RunReport) -> dict[str, object]:
    return {"run": report.run_id, "created": report.created, "device": report.device, "runtime": report.runtime}


def _scores(report: RunReport) -> Iterator[FigureRecord]:
    for score in report.scores:
        yield FigureRecord.model_validate(
            {
                **_of_run(report),
                "track": score.track.value,
                "part": OVERALL,
                "name": score.metric,
                "model": None,
                "method": score.variant.method or "dense",
                "setting": score.variant.setting,
                "value": score.value,
                "low": score.interval.low if score.interval else None,
                "high": score.interval.high if score.interval else None,
                "higher_is_better": True,
                "reason": score.reason,
            }
        )


def _values(report: RunReport) -> Iterator[FigureRecord]:
    for value in report.scoring.values:
        yield FigureRecord.model_validate(
            {
                **_of_run(report),
                "track": value.place.track.value,
                "part": value.place.part,
                "name": value.place.name,
                "model": value.place.model,
                "method": value.variant.method or "dense",
                "setting": value.variant.setting,
                "value": value.value,
                "low": value.interval.low if value.interval else None,
                "high": value.interval.high if value.interval else None,
                "unit": value.unit,
                "higher_is_better": value.higher_is_better,
                "items": value.items,
                "protocol": value.protocol or None,
                "reason": value.withheld or value.caveat,
            }
        )


def _missing(report: RunReport) -> Iterator[FigureRecord]:
    """Of what a complete score holds, what has no value at all."""
    held = {(value.place, value.variant) for value in report.scoring.values}
    for score in report.scores:
        for one in score.coverage.missing:
            if (one.place, score.variant) not in held and score.variant.is_scored_in(score.track):
                yield FigureRecord.model_validate(
                    {
                        **_of_run(report),
                        "track": one.place.track.value,
                        "part": one.place.part,
                        "name": one.place.name,
                        "model": one.place.model,
                        "method": score.variant.method or "dense",
                        "setting": score.variant.setting,
                        "value": None,
                        "reason": one.reason,
                    }
                )
