"""lm-evaluation-harness's results file, as somebody else wrote it: read through one door, or refused in one sentence.

What is taken are figures and what is said of them. Nothing in the file is believed to be of this machine, or of a
checkpoint that is known here.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from harness.contract import read_regular
from harness.contract.text import escaped, one_line
from orchestrator.documents import why_invalid
from orchestrator.errors import BadManifest
from orchestrator.exchange.lm_eval import STDERR
from orchestrator.store.imported import Imported, ImportedFigure

TOOL = "lm-evaluation-harness"
MOST_FIGURES = 10_000
"""lm-eval's largest group has some hundreds of tasks with a handful of metrics each."""
MOST_NAME_CHARACTERS = 200
MOST_REASON_CHARACTERS = 300
_HINT = "give a results_*.json of lm-eval 0.4, as it was written; docs/exchange.md says what is read of it"


class _Foreign(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Count(_Foreign):
    original: NonNegativeInt | None = None
    effective: NonNegativeInt | None = None


class _Results(_Foreign):
    """All that is read; every field but the first is optional in lm-eval's own form."""

    results: dict[str, dict[str, Any]] = Field(min_length=1)
    versions: dict[str, str | int | float | None] = {}
    n_shot: dict[str, NonNegativeInt | None] = Field(default={}, alias="n-shot")
    higher_is_better: dict[str, dict[str, bool | None]] = {}
    n_samples: dict[str, _Count] = Field(default={}, alias="n-samples")
    model_name: str | None = None
    lm_eval_version: str | None = None
    date: FiniteFloat | None = Field(default=None, ge=0, lt=1e11)


def read_lm_eval(path: Path, now: datetime, name: str | None = None) -> Imported:
    """The figures of a results file. `name` is what to call the model, if not as the file does.

    Raises:
        BadManifest: it is no regular file of bounded size, no JSON without NaN and infinities, or not of this form.
    """
    shown = escaped(path.name)
    try:
        content = read_regular(path)
    except OSError as failure:
        raise BadManifest(f"{shown} cannot be imported: {failure.strerror or failure}", hint=_HINT) from failure
    try:
        document = _Results.model_validate(json.loads(content, parse_constant=_refuse))
        figures = tuple(_figures(document))
    except ValidationError as invalid:
        reason = one_line(why_invalid(invalid, content), MOST_REASON_CHARACTERS)
        raise BadManifest(f"{shown} is no results file of lm-eval: {reason}", hint=_HINT) from invalid
    except (ValueError, RecursionError) as malformed:
        too_deep = isinstance(malformed, RecursionError)
        reason = "it is nested too deeply" if too_deep else one_line(str(malformed), MOST_REASON_CHARACTERS)
        raise BadManifest(f"{shown} is no results file of lm-eval: {reason}", hint=_HINT) from malformed
    called = name or document.model_name or path.parent.name
    return Imported(
        name=_name(called),
        tool=TOOL,
        tool_version=None if document.lm_eval_version is None else _name(document.lm_eval_version),
        file_name=_name(path.name),
        file_sha256=hashlib.sha256(content).hexdigest(),
        imported=now,
        evaluated=None if document.date is None else datetime.fromtimestamp(document.date, UTC),
        figures=figures,
    )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is no number")


def _figures(document: _Results) -> Iterator[ImportedFigure]:
    count = 0
    for task, metrics in document.results.items():
        for key, value in metrics.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith(STDERR):
                continue
            count += 1
            if count > MOST_FIGURES:
                raise ValueError(f"it holds more than {MOST_FIGURES} figures")
            yield _figure(document, task, metric, chosen, value)
    if not count:
        raise ValueError("`results` holds no figure: none of its fields is called `metric,filter`")


def _figure(document: _Results, task: str, metric: str, chosen: str, value: Any) -> ImportedFigure:
    samples = document.n_samples.get(task, _Count())
    version = document.versions.get(task)
    return ImportedFigure(
        task=_name(task),
        metric=_name(metric),
        filter=_name(chosen),
        value=_number(value, f"results.{task}.{metric},{chosen}"),
        standard_error=_standard_error(document.results[task].get(f"{metric}{STDERR},{chosen}"), task, metric),
        higher_is_better=document.higher_is_better.get(task, {}).get(metric),
        protocol=None if version is None else _name(str(version)),
        shots=document.n_shot.get(task),
        items=samples.effective,
        items_available=samples.original,
    )


def _standard_error(value: Any, task: str, metric: str) -> float | None:
    """lm-eval writes `N/A` where it has computed none."""
    return None if value in (None, "N/A") else _number(value, f"results.{task}.{metric}{STDERR}")


def _number(value: Any, where: str) -> float:
    """1e999 is JSON, and no number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} is no number")  # noqa: TRY004
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where} is larger than any number that can be kept")
    return number


def _name(text: str) -> str:
    return one_line(text, MOST_NAME_CHARACTERS)
