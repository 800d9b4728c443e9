"""Writes docs/h200.md and its plot from what serving.py measured: every figure on it comes out of the JSON.

python benchmarks/h200/serving_page.py benchmarks/h200/serving-llama-2-7b.json [MORE.json] [--out docs/h200.md]

The overall metric is the project's own score of track 5 over the backends and batch sizes that were measured.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.h200.variants import VARIANTS
from harness.contract import BenchmarkResult, Speed
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.interval import if_any, interval_of
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.rounds import joined
from orchestrator.evidence.value import Interval, Measurement, Value, Values, Variant
from orchestrator.report.bars import chart_of
from orchestrator.report.pages import render_svg
from orchestrator.score.overall import Score, score
from orchestrator.stages import Turn
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
NAMES = {"vllm": "vLLM", "native": "native", "transformers": "transformers"}
BACKENDS = tuple(NAMES)

Key = tuple[str, str, int]
"""Variant, backend, batch size."""


@dataclass(frozen=True)
class Measured:
    """What was measured at one model's shape on one kind of card, in one or more rounds."""

    shape: str
    layers: int
    device: str
    copy_bytes_per_second: float
    speeds: dict[Key, list[tuple[BenchmarkResult, Speed]]]
    values: Values
    draws: Draws

    @property
    def sizes(self) -> list[int]:
        return sorted({size for _, _, size in self.speeds})

    @property
    def backends(self) -> list[str]:
        return [name for name in BACKENDS if any(name == backend for _, backend, _ in self.speeds)]

    def value(self, key: Key) -> Value | None:
        variant, backend, size = key
        return self.values.get(self._place(backend, size), _variant(variant))

    def ratio(self, key: Key) -> tuple[float, Interval | None] | None:
        """Times dense, with its interval where there were rounds; None where either was not measured."""
        own, dense = self.value(key), self.value(("dense", *key[1:]))
        if own is None or dense is None:
            return None
        interval, _ = if_any(lambda: interval_of(self.draws.ratio(own, dense)))
        return own.value / dense.value, interval

    def overall(self, variant: str, backend: str) -> Score:
        """The project's score of track 5 over the batch sizes that the dense model was timed at."""
        sizes = tuple(size for size in self.sizes if ("dense", backend, size) in self.speeds)
        expectation = expect(Track.HARDWARE_ACCELERATION, (self.shape,), backends=(backend,), batch_sizes=sizes)
        return score(expectation, _variant(variant), self.values, mode=Mode.PAPER, draws=self.draws)

    def _place(self, backend: str, size: int) -> Place:
        return Place(track=Track.HARDWARE_ACCELERATION, part=backend, name=f"batch {size}", model=self.shape)

    @classmethod
    def of(cls, documents: Sequence[dict[str, Any]]) -> Self:
        """Of one shape on one kind of card. A document's rounds come after those of the documents before it."""
        speeds: dict[Key, list[tuple[BenchmarkResult, Speed]]] = {}
        values = []
        first = documents[0]
        rounds: dict[str, int] = {}
        for number, document in enumerate(documents):
            before = dict(rounds)
            for index, written in enumerate(document["rows"]):
                row = written | {"round": written["round"] + before.get(written["backend"], 0)}
                rounds[row["backend"]] = max(rounds.get(row["backend"], 0), row["round"])
                result = BenchmarkResult.model_validate(row["result"])
                for speed in result.speeds:
                    key = (row["variant"], row["backend"], speed.batch_size)
                    if not row["again"]:
                        speeds.setdefault(key, []).append((result, speed))
                    values.append(_value(first["shape"], key, speed, row, f"{number}-{index}"))
        joint = Values(joined(values))
        return cls(
            shape=first["shape"],
            layers=first["layers"],
            device=first["device"],
            copy_bytes_per_second=first["copy_bytes_per_second"],
            speeds=speeds,
            values=joint,
            draws=Draws((), {}, Resampling(), joint),
        )


def _value(shape: str, key: Key, speed: Speed, row: dict[str, Any], source: str) -> Value:
    variant, backend, size = key
    measured: tuple[Measurement, ...] = ()
    if "begun" in row:
        turn = Turn(round=row["round"], again=row["again"])
        times = {name: datetime.fromisoformat(row[name]) for name in ("begun", "ended")}
        measured = (Measurement(turn=turn, value=speed.decode_tokens_per_second, source=source, **times),)
    return Value(
        place=Place(track=Track.HARDWARE_ACCELERATION, part=backend, name=f"batch {size}", model=shape),
        variant=_variant(variant),
        value=speed.decode_tokens_per_second,
        unit="tokens/s",
        higher_is_better=True,
        protocol=speed.protocol,
        measurements=measured,
        noise_floor=speed.noise_floor,
        source=source,
    )


def _variant(name: str) -> Variant:
    return Variant() if name == "dense" else Variant(method=VARIANTS[name].method, setting=name)


def grouped(documents: Iterable[dict[str, Any]]) -> list[Measured]:
    """Those of one shape on one kind of card together, in the order that they are given."""
    alike: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for document in documents:
        alike.setdefault((document["shape"], document["layers"], document["device"]), []).append(document)
    return [Measured.of(several) for several in alike.values()]


def page(measured: Iterable[Measured], plot: str, text: str) -> str:
    sections = [text.strip(), ""]
    for one in measured:
        sections += _table(one)
    return "\n".join([*sections, f"![Tokens a second at batch 1]({plot})", ""])


def _table(of: Measured) -> list[str]:
    lines = [
        f"## The shape of {of.shape}, {of.layers} layers, on an {of.device}",
        "",
        f"Random float16 weights; 128 prompt and 128 generated tokens; {_rounds(of)}. A copy within this card's memory"
        f" moves {of.copy_bytes_per_second / 1e12:.2f} TB/s, read and written. Tokens a second, times the same"
        " backend's dense model, and OM_hard over the batch sizes:",
        "",
    ]
    for backend in of.backends:
        sizes = [size for size in of.sizes if ("dense", backend, size) in of.speeds]
        lines += [
            f"| {NAMES[backend]} | {' | '.join(f'batch {size}' for size in sizes)} | OM_hard |",
            f"| --- |{' --- |' * (len(sizes) + 1)}",
        ]
        for variant, label in LABELS.items():
            cells = [_cell(of, (variant, backend, size)) for size in sizes]
            lines.append(f"| {label} | {' | '.join([*cells, _score_text(of.overall(variant, backend))])} |")
        lines.append("")
    return [*lines, *_memory(of)]


def _memory(of: Measured) -> list[str]:
    largest = of.sizes[-1]
    columns = [f"{NAMES[name]}, {what}" for what in ("peak GB", "J/token") for name in of.backends]
    lines = [
        "Weights as the native backend holds them; the peak of memory while"
        f" {largest} sequences are served, start-up apart; energy a token at batch 1:",
        "",
        f"| checkpoint | weights, GB | {' | '.join(columns)} |",
        f"| --- | --- |{' --- |' * len(columns)}",
    ]
    for variant, label in LABELS.items():
        peaks = [_serving_peak(of, (variant, name, largest)) for name in of.backends]
        energies = [_joules(of, (variant, name, 1)) for name in of.backends]
        lines.append(f"| {label} | {' | '.join([_weights(of, (variant, 'native', 1)), *peaks, *energies])} |")
    return [*lines, ""]


def _rounds(of: Measured) -> str:
    repeats = sorted({len(speed.samples) for several in of.speeds.values() for _, speed in several})
    runs = " or ".join(map(str, repeats))
    rounds = sorted({len(several) for several in of.speeds.values()})
    if rounds == [1]:
        return f"medians of {runs} runs in one process"
    return f"means of {' or '.join(map(str, rounds))} rounds, each a process whose {runs} runs give a median"


def _cell(of: Measured, key: Key) -> str:
    value, found = of.value(key), of.ratio(key)
    if value is None:
        return DASH
    if key[0] == "dense" or found is None:
        return f"{value.value:.1f}"
    times, interval = found
    return (
        f"{value.value:.1f} ({times:.2f}x{'' if interval is None else f' [{interval.low:.2f}, {interval.high:.2f}]'})"
    )


def _score_text(found: Score) -> str:
    if found.value is None:
        return DASH
    partial = f" ({len(found.counted)}/{found.coverage.values_expected})" if found.is_partial else ""
    interval = "" if found.interval is None else f" [{found.interval.low:.1f}, {found.interval.high:.1f}]"
    return f"{found.value:.1f}{partial}{interval}"


def _weights(of: Measured, key: Key) -> str:
    parts = of.speeds[key][0][0].memory_parts if key in of.speeds else None
    return DASH if parts is None or parts.weight_bytes is None else f"{parts.weight_bytes / 1e9:.2f}"


def _serving_peak(of: Measured, key: Key) -> str:
    """A dash also where the request was made before the peaks of start-up and of serving were told apart."""
    peaks = [
        result.memory.peak_memory_bytes
        for result, _ in of.speeds.get(key, ())
        if result.start_up is not None and result.start_up.peak_memory_bytes is not None
    ]
    return f"{max(peaks) / 1e9:.2f}" if peaks else DASH


def _joules(of: Measured, key: Key) -> str:
    telemetry = [speed.telemetry for _, speed in of.speeds.get(key, ())]
    found = [one.energy_joules_per_token for one in telemetry if one is not None]
    energies = [one for one in found if one is not None]
    return f"{sum(energies) / len(energies):.2f}" if energies else DASH


def plot_of(measured: Sequence[Measured]) -> str:
    """Bars of tokens a second at batch 1, as SVG."""
    values = [_plotted(value, one) for one in measured for value in one.values if value.place.name == "batch 1"]
    chart = chart_of(
        "h200",
        "Generated tokens a second at batch 1; more is better",
        values,
        panel=lambda place: place.model,
        series=lambda place: NAMES[place.part],
    )
    return "" if chart is None else render_svg(chart)


def _plotted(value: Value, of: Measured) -> Value:
    known = VARIANTS[value.variant.setting or "dense"]
    return value.model_copy(
        update={
            "place": value.place.model_copy(update={"model": f"{of.shape} on an {of.device}"}),
            "variant": Variant(method=known.method, setting=known.setting),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", nargs="+", type=Path)
    parser.add_argument("--text", type=Path, default=Path(__file__).with_name("serving_page.md"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "h200.md")
    arguments = parser.parse_args()
    measured = grouped(json.loads(path.read_text(encoding="utf-8")) for path in arguments.measured)
    plot = arguments.out.with_suffix(".svg")
    plot.write_text(plot_of(measured), encoding="utf-8")
    text = arguments.text.read_text(encoding="utf-8")
    arguments.out.write_text(page(measured, plot.name, text), encoding="utf-8")


if __name__ == "__main__":
    main()
