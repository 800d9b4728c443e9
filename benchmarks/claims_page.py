"""Writes the table of docs/claims.md: what became of the paper's claims, on its tables and on what was measured here.

python benchmarks/claims_page.py

A run's column comes from what `orchestrator claims RUN --json` printed, in `benchmarks/claims/NAME.json`.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.h200.serving_page import grouped
from benchmarks.h200.variants import VARIANTS
from harness.contract import Setting
from orchestrator.evidence.categories import Category, category_of
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Value, Values, Variant
from orchestrator.installation import PAPER_CLAIMS, shipped_claims
from orchestrator.report.claims import bounds_text, counts_text, figure_cell
from orchestrator.report.formats import MISSING
from orchestrator.score.claims import BY_FIGURE_ALONE, Finding, RunClaims, Verdict, judge
from orchestrator.score.claims_file import read_claims
from orchestrator.score.paper import load_tables
from orchestrator.tracks import Expectation, Track, expect

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "claims.md"
RUNS = {
    "accuracy-smollm2-h200": "SmolLM2-135M on an H200 (`accuracy.yaml`)",
    "full-small": "`full-small.yaml`",
}
"""Titles of the runs' columns, by the name of their file in benchmarks/claims/; one that is not there has no column."""
SHAPE = tuple(ROOT / "benchmarks" / "h200" / f"serving-llama-2-7b-h200{when}.json" for when in ("", "-later"))
TABLE = re.compile(r"(?<=<!-- verdicts -->\n).*(?=<!-- end of verdicts -->)", re.DOTALL)
_OF_TABLE_5 = {
    ("structured", "50%"): Variant(method="llm-pruner", setting="50%"),
    ("structured-2:4", "2:4"): Variant(method="wanda", setting="2:4"),
    ("unstructured", "50%"): Variant(method="wanda", setting="50%"),
    ("quantization", "INT8"): Variant(method="gptq", setting="W8A16"),
    ("quantization", "INT4"): Variant(method="gptq", setting="W4A16"),
}
"""A variant for each category, of which the table names no method."""
_WITHOUT_A_CLAIM = ("track2_int8",)


def paper_evidence() -> Evidence:
    """The paper's tables as if a run had measured them, each printed figure taken as it stands."""
    tables = [table for name, table in load_tables().items() if name not in _WITHOUT_A_CLAIM]
    values = Values(_of_table_5(value) for table in tables for value in table.values())
    return _evidence("the paper's tables", values, [table.expectation for table in tables])


def _of_table_5(value: Value) -> Value:
    named = _OF_TABLE_5.get((value.variant.method or "", value.variant.setting or ""))
    return value if named is None else value.model_copy(update={"variant": named})


def shape_evidence(documents: Iterable[Mapping[str, object]], backend: str) -> Evidence:
    """What one library served of checkpoints of one shape on one card, as benchmarks/h200/serving.py keeps it."""
    (measured,) = grouped(map(dict, documents))
    values = Values(_of_shape(value) for value in measured.values if value.place.part == backend)
    expectation = expect(
        Track.HARDWARE_ACCELERATION, (measured.shape,), backends=(backend,), batch_sizes=measured.sizes
    )
    return _evidence(measured.shape, values, [expectation], Draws((), {}, Resampling(), values))


def _of_shape(value: Value) -> Value:
    known = VARIANTS[value.variant.setting or "dense"]
    return value.model_copy(update={"variant": Variant(method=known.method, setting=known.setting)})


def _evidence(run: str, values: Values, expectations: Iterable[Expectation], draws: Draws | None = None) -> Evidence:
    return Evidence(
        run=run,
        device="",
        variants=values.variants,
        checkpoints={},
        expectations=tuple(expectations),
        values=values,
        outcomes={},
        draws=draws,
        categories=_categories(values.variants),
    )


def _categories(variants: Iterable[Variant]) -> dict[Variant, Category]:
    found = {}
    for variant in variants:
        if variant.setting is not None:
            setting = Setting.parse(variant.setting)
            category = category_of(setting, whole_units=variant.method == "llm-pruner")
            if category is not None:
                found[variant] = category
    return found


def columns() -> dict[str, RunClaims]:
    """The page's columns by their titles."""
    claims = read_claims(shipped_claims()[PAPER_CLAIMS])
    found = {"the paper's own tables": judge(claims, paper_evidence())}
    for name, title in RUNS.items():
        path = ROOT / "benchmarks" / "claims" / f"{name}.json"
        if path.is_file():
            found[title] = RunClaims.model_validate_json(path.read_bytes())
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in SHAPE]
    for backend, title in {"vllm": "vLLM", "native": "the native engine"}.items():
        found[f"{title} at LLaMA-2-7B's shape on an H200"] = judge(claims, shape_evidence(documents, backend))
    return found


def table(of: Mapping[str, RunClaims]) -> str:
    """A row a claim, a column a run, the counts below."""
    first = next(iter(of.values()))
    lines = [f"| claim | bound | {' | '.join(of)} |", f"| --- | --- |{' --- |' * len(of)}"]
    for claim in first.findings:
        cells = [_cell(next((it for it in run.findings if it.name == claim.name), None)) for run in of.values()]
        lines.append(f"| {claim.says} ({claim.source}) | {claim.of} {bounds_text(claim)} | {' | '.join(cells)} |")
    counts = (counts_text(run).partition(": ")[2] for run in of.values())
    return "\n".join([*lines, f"| all {len(first.findings)} | | {' | '.join(counts)} |"]) + "\n"


def _cell(found: Finding | None) -> str:
    if found is None or found.verdict is Verdict.NOT_MEASURED:
        return MISSING
    why = f"; {found.reason}" if found.reason not in (None, BY_FIGURE_ALONE) else ""
    return f"{found.verdict.value}: {figure_cell(found)}{why}"


def page(text: str, of: Mapping[str, RunClaims]) -> str:
    """The page with its table made anew."""
    return TABLE.sub(lambda _: table(of), text)


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), columns()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
