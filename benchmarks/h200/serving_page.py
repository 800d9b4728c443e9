"""Writes docs/h200.md and its plot from what serving.py measured: every figure on it comes out of the JSON.

python benchmarks/h200/serving_page.py benchmarks/h200/serving-llama-2-7b.json [MORE.json] [--out docs/h200.md]

The overall metric is the project's own score of track 5 over the backends and batch sizes that were measured.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.h200.variants import VARIANTS
from harness.contract import BenchmarkResult, Speed
from orchestrator.evidence.value import Value, Values, Variant
from orchestrator.score.overall import Score, score
from orchestrator.tracks import Mode, Place, Track, expect

DASH = "–"  # noqa: RUF001  an en dash, as in the other reports
LABELS = {
    "dense": "dense, float16",
    "structured-50": "structured 50 %",
    "2-4": "2:4",
    "unstructured-50": "unstructured 50 %",
    "w8a16": "W8A16 g128",
    "w8a8": "W8A8",
    "w4a16": "W4A16 g128",
}
_BAR, _GAP, _LEFT, _WIDTH = 12, 10, 130, 520
_COLOURS = {"vllm": "#4472a8", "native": "#c8793a"}

Speeds = dict[tuple[str, str, int], tuple[BenchmarkResult, Speed]]
"""By variant, backend and batch size."""


def page(documents: list[dict[str, Any]], plot: str, text: str) -> str:
    sections = [text.strip(), ""]
    for document in documents:
        speeds = read_speeds(document)
        sections += _table(document, speeds)
    return "\n".join([*sections, f"![Tokens a second at batch 1]({plot})", ""])


def read_speeds(document: dict[str, Any]) -> Speeds:
    """Every speed that was measured, validated as the contract's results."""
    found: Speeds = {}
    for variant, backends in document["variants"].items():
        for backend, rows in backends.items():
            for size, row in rows.items():
                result = BenchmarkResult.model_validate(row["result"])
                speed = next(one for one in result.speeds if one.batch_size == int(size))
                found[variant, _engine(backend, row["parameters"]), int(size)] = (result, speed)
    return found


def _engine(backend: str, parameters: dict[str, Any]) -> str:
    """The native engine was called `transformers` when it was part of that backend, which has no options any more."""
    return "native" if backend == "transformers" and parameters["options"] else backend


def overall(document: dict[str, Any], speeds: Speeds, variant: str, backends: tuple[str, ...]) -> Score:
    """OM_hard of a variant over `backends` and the batch sizes that the dense model was timed at."""
    values = [
        Value(
            place=Place(track=Track.HARDWARE_ACCELERATION, part=backend, name=f"batch {size}", model=document["shape"]),
            variant=Variant(method=VARIANTS[name].method, setting=None if VARIANTS[name].method is None else name),
            value=speed.decode_tokens_per_second,
            unit="tokens/s",
            higher_is_better=True,
            protocol=speed.protocol,
            noise_floor=speed.noise_floor,
        )
        for (name, backend, size), (_, speed) in speeds.items()
        if backend in backends
    ]
    sizes = sorted({size for name, backend, size in speeds if name == "dense" and backend in backends})
    expectation = expect(Track.HARDWARE_ACCELERATION, (document["shape"],), backends=backends, batch_sizes=tuple(sizes))
    wanted = Variant(method=VARIANTS[variant].method, setting=None if variant == "dense" else variant)
    return score(expectation, wanted, Values(values), mode=Mode.PAPER)


def _table(document: dict[str, Any], speeds: Speeds) -> list[str]:
    places = [(backend, size) for backend in ("vllm", "native") for size in (1, 32)]
    rate = document["copy_bytes_per_second"] / 1e12
    lines = [
        f"## The shape of {document['shape']}, {document['layers']} layers, on an {document['device']}",
        "",
        "Random float16 weights; 128 prompt and 128 generated tokens; medians of 6 runs. A copy within this card's"
        f" memory moves {rate:.2f} TB/s, read and written. Tokens a second at batch 1 and 32, and times the same"
        " backend's dense model:",
        "",
        "| checkpoint | vLLM, 1 | vLLM, 32 | native, 1 | native, 32 | OM_hard, vLLM | OM_hard, native |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for variant, label in LABELS.items():
        cells = [_cell(speeds, variant, *place) for place in places]
        metrics = [_score_text(overall(document, speeds, variant, (name,))) for name in ("vllm", "native")]
        lines.append(f"| {label} | {' | '.join([*cells, *metrics])} |")
    lines += [
        "",
        "Weights as the native backend holds them and energy a token, at batch 1; the peak of memory while 32"
        " sequences are served, start-up apart:",
        "",
        "| checkpoint | weights, GB | native, peak GB | vLLM, peak GB | native, J/token | vLLM, J/token |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for variant, label in LABELS.items():
        peaks = " | ".join(_serving_peak(speeds, variant, name) for name in ("native", "vllm"))
        lines.append(f"| {label} | {_weights(speeds, variant)} | {peaks} | {_joules(speeds, variant)} |")
    return [*lines, ""]


def _cell(speeds: Speeds, variant: str, backend: str, size: int) -> str:
    if (variant, backend, size) not in speeds:
        return DASH
    value = speeds[variant, backend, size][1].decode_tokens_per_second
    dense = speeds["dense", backend, size][1].decode_tokens_per_second
    return f"{value:.1f}" if variant == "dense" else f"{value:.1f} ({value / dense:.2f}x)"


def _score_text(found: Score) -> str:
    if found.value is None:
        return DASH
    partial = f" ({len(found.counted)}/{found.coverage.values_expected})" if found.is_partial else ""
    return f"{found.value:.1f}{partial}"


def _weights(speeds: Speeds, variant: str) -> str:
    if (variant, "native", 1) not in speeds:
        return DASH
    parts = speeds[variant, "native", 1][0].memory_parts
    return DASH if parts is None or parts.weight_bytes is None else f"{parts.weight_bytes / 1e9:.2f}"


def _serving_peak(speeds: Speeds, variant: str, backend: str) -> str:
    """A dash also where the request was made before the peaks of start-up and of serving were told apart."""
    if (variant, backend, 32) not in speeds:
        return DASH
    result = speeds[variant, backend, 32][0]
    apart = result.start_up is not None and result.start_up.peak_memory_bytes is not None
    return f"{result.memory.peak_memory_bytes / 1e9:.2f}" if apart else DASH


def _joules(speeds: Speeds, variant: str) -> str:
    cells = []
    for backend in ("native", "vllm"):
        telemetry = speeds[variant, backend, 1][1].telemetry if (variant, backend, 1) in speeds else None
        energy = None if telemetry is None else telemetry.energy_joules_per_token
        cells.append(DASH if energy is None else f"{energy:.2f}")
    return " | ".join(cells)


def plot_of(documents: list[dict[str, Any]]) -> str:
    """Bars of tokens a second at batch 1, as SVG."""
    bars = []
    for document in documents:
        speeds = read_speeds(document)
        for variant, label in LABELS.items():
            for backend in ("vllm", "native"):
                if (variant, backend, 1) in speeds:
                    value = speeds[variant, backend, 1][1].decode_tokens_per_second
                    bars.append((f"{document['shape']}: {label}", backend, value))
    largest = max(value for _, _, value in bars)
    lines, top, before = [], 30, ""
    for label, backend, value in bars:
        if label != before:
            top += _GAP
            lines.append(
                f'<text x="{_LEFT - 6}" y="{top + 16}" text-anchor="end">{escape(label.split(": ")[1])}</text>'
            )
        width = _WIDTH * value / largest
        lines.append(f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[backend]}"/>')
        lines.append(f'<text x="{_LEFT + width + 5:.1f}" y="{top + 10}">{value:.0f}</text>')
        top, before = top + _BAR, label
    legend = "".join(
        f'<rect x="{_LEFT + 150 * number}" y="8" width="12" height="12" fill="{colour}"/>'
        f'<text x="{_LEFT + 150 * number + 18}" y="18">{"vLLM" if name == "vllm" else name}</text>'
        for number, (name, colour) in enumerate(_COLOURS.items())
    )
    size = f'width="{_LEFT + _WIDTH + 60}" height="{top + 20}"'
    style = 'font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{legend}{"".join(lines)}</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", nargs="+", type=Path)
    parser.add_argument("--text", type=Path, default=Path(__file__).with_name("serving_page.md"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "h200.md")
    arguments = parser.parse_args()
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.measured]
    plot = arguments.out.with_suffix(".svg")
    plot.write_text(plot_of(documents), encoding="utf-8")
    text = arguments.text.read_text(encoding="utf-8")
    arguments.out.write_text(page(documents, plot.name, text), encoding="utf-8")


if __name__ == "__main__":
    main()
