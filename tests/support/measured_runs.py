"""Runs made of outcomes that a test chooses: their files, their values, and what a store would say of them."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from harness.contract.items import NOT_FINITE
from orchestrator.evidence.baselines import Baseline
from orchestrator.evidence.draws import Draws, Printed
from orchestrator.evidence.pairing import paired_with_dense
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Value, Values, Variant
from orchestrator.figures.items_file import OutcomesFile
from orchestrator.figures.outcomes import Outcomes, read_outcomes
from orchestrator.tracks import Place, Track, expect

WANDA = Variant(method="wanda", setting="50%")
GPTQ = Variant(method="gptq", setting="W4A16")
PARTS = {
    "arc_easy": ((Track.PERFORMANCE, "knowledge"),),
    "piqa": ((Track.PERFORMANCE, "inference"),),
    "wikitext2": ((Track.PERFORMANCE, "inference"), (Track.GENERALIZATION, "perplexity")),
    "advglue": ((Track.TRUSTWORTHINESS, "robustness"),),
}


def pack(path, lines):
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else zstandard.compress(text))
    return path


def choices(correct, metric="acc", groups=None, rows="row"):
    """One line an item; an outcome that is None was excluded. `rows` names the data that the items are of."""
    return [
        {
            "index": index,
            "document": f"{rows} {index}",
            "log_likelihoods": [None if value is None else -1.0, -2.0],
            "gold": 0 if value else 1,
            "picked": None if value is None else 0,
            "picked_norm": None if value is None else 0,
            "correct": {} if value is None else {metric: value},
            "group": groups[index] if groups else None,
        }
        for index, value in enumerate(correct)
    ]


def segments(losses, tokens=15):
    return [
        {"index": index, "negative_log_likelihood": None if loss is None else loss * tokens, "tokens": tokens}
        for index, loss in enumerate(losses)
    ]


class RunMaker:
    """Collects what variants got right, writes it, and gives the evidence that a store would give.

    `facts` are the arguments of the values to be made, which a test may change before.
    """

    def __init__(self, folder: Path, run: str = "run-1", models=("tiny",), device: str = "a processor") -> None:
        self.folder, self.run, self.models, self.device = folder / run, run, models, device
        self.folder.mkdir()
        self.facts: list[dict[str, Any]] = []
        self.outcomes: dict[str, Outcomes] = {}
        self.families: dict[str, str] = {}
        self.baselines: dict[Variant, tuple[Baseline, ...]] = {}
        self.checkpoints = {model: f"digest of {model}" for model in models}

    def add(self, variant, task, outcomes, *, model="tiny", groups=None, protocol="p", rows="row"):
        """Outcomes are 0 or 1 each; for wikitext2 they are losses. With groups, the value is their mean of means."""
        scored = [value for value in outcomes if value is not None]
        if task == "wikitext2":
            value, lines = math.exp(np.mean(scored)), segments(outcomes)
        else:
            value, lines = float(np.mean(scored)), choices(outcomes, groups=groups, rows=rows)
            if groups:
                pairs = [(o, g) for o, g in zip(outcomes, groups, strict=True) if o is not None]
                members = [[o for o, g in pairs if g == name] for name in set(groups)]
                value = float(np.mean([np.mean(member) for member in members]))
        source = f"{model}-{variant.label}-{task}".replace(" ", "-").replace("%", "")
        path = pack(self.folder / f"{source}.jsonl.zst", lines)
        self.outcomes[source] = read_outcomes(OutcomesFile(path, data="the data"))
        for track, part in PARTS[task]:
            self.observe(
                track,
                part,
                task,
                variant,
                value,
                model=model,
                higher_is_better=task != "wikitext2",
                unit="perplexity" if task == "wikitext2" else "fraction",
                protocol=protocol,
                metric="perplexity" if task == "wikitext2" else "acc",
                items=len(scored),
                excluded={NOT_FINITE: len(outcomes) - len(scored)} if len(scored) < len(outcomes) else {},
                source=source,
            )

    def observe(self, track, part, name, variant, value, *, model="tiny", **fields):
        place = Place(track=track, part=part, name=name, model=model)
        self.facts.append({"place": place, "variant": variant, "value": value, "source": "", "metric": "", **fields})

    def change(self, variant, name, **fields) -> None:
        """Let the variant's values of this name be others."""
        for facts in self.facts:
            if (facts["variant"], facts["place"].name) == (variant, name):
                facts |= fields

    def evidence(self, resampling: Resampling | None = None) -> Evidence:
        """With `resampling`, the values have intervals."""
        printed = [
            Printed(facts["source"], facts["metric"], facts["value"])
            for facts in self.facts
            if facts["source"] in self.outcomes
        ]
        draws = Draws(printed, self.outcomes, resampling) if resampling else None
        return Evidence(
            run=self.run,
            device=self.device,
            variants=tuple(dict.fromkeys([DENSE, *(facts["variant"] for facts in self.facts)])),
            checkpoints=self.checkpoints,
            expectations=tuple(expect(track, self.models, families=self.families) for track in Track),
            values=Values(paired_with_dense([self._value(facts, draws) for facts in self.facts], self.outcomes)),
            outcomes=self.outcomes,
            draws=draws,
            baselines=self.baselines,
        )

    def _value(self, facts: dict[str, Any], draws: Draws | None) -> Value:
        interval, reason = draws.interval(facts["source"], facts["metric"]) if draws else (None, None)
        return Value(**facts, interval=interval, interval_reason=reason)


def coin_flips(share, items, seed):
    return (np.random.default_rng(seed).random(items) < share).astype(float).tolist()
