"""What a file of claims states gets a verdict from intervals of the same draws, or the reason why there is none."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.contract import Device, DeviceKind, EvaluateParameters, Setting
from orchestrator.errors import BadManifest
from orchestrator.evidence.categories import Category, category_of
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, NOT_MEASURED, Measurement, Value, Values, Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_claims, shipped_images, shipped_manifests
from orchestrator.manifest import read_manifest
from orchestrator.plan import build_plan
from orchestrator.score.categories import category_scores
from orchestrator.score.claims import RunClaims, Verdict, judge
from orchestrator.score.claims_file import Bounds, ClaimsFile, read_claims
from orchestrator.stages import Turn
from orchestrator.tracks import Place, Track, expect
from tests.support.measured_runs import GPTQ, WANDA, RunMaker, coin_flips

FEW = Resampling(resamples=400)
SPARSEGPT = Variant(method="sparsegpt", setting="50%")
GROUPS = {
    "pruned": {"methods": ["wanda", "sparsegpt", "llm-pruner"]},
    "quantized": {"settings": ["W4A16"]},
    "all": {},
}


def stated(**claim: object) -> ClaimsFile:
    one = {"name": "one", "says": "It is so.", "source": "here", **claim}
    return ClaimsFile.model_validate({"schema_version": 1, "title": "t", "groups": GROUPS, "claims": [one]})


def side(of: str, track: int = 1, **more: object) -> dict[str, object]:
    return {"of": of, "track": track, **more}


def verdict(document: RunClaims) -> Verdict:
    return document.findings[0].verdict


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Dense gets 60 % right; wanda and sparsegpt about half of that, the same items both; gptq all that dense does."""
    run = RunMaker(tmp_path_factory.mktemp("runs"))
    right = coin_flips(0.6, 400, seed=1)
    half = [one * other for one, other in zip(right, coin_flips(0.5, 400, seed=2), strict=True)]
    for variant, outcomes in ((DENSE, right), (WANDA, half), (SPARSEGPT, half), (GPTQ, right)):
        run.add(variant, "piqa", outcomes)
    run.add(DENSE, "wikitext2", [2.0 + 0.1 * (n % 7) for n in range(60)])
    run.add(GPTQ, "wikitext2", [2.1 + 0.1 * (n % 5) for n in range(60)])
    return run.evidence(FEW)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"at_most": -20}, Verdict.HOLDS),
        ({"at_least": -20}, Verdict.FAILS),
        ({"at_least": -60, "at_most": -20}, Verdict.HOLDS),
        ({"at_least": -20, "at_most": 60}, Verdict.FAILS),
    ],
)
def test_the_whole_interval_decides(evidence: Evidence, bounds: dict[str, float], expected: Verdict) -> None:
    document = judge(stated(a=side("pruned"), b=side("quantized"), difference=bounds), evidence)
    (found,) = document.findings
    assert found.verdict is expected
    assert found.figure is not None and found.interval is not None
    assert found.interval.low < found.figure < found.interval.high
    assert document.resampling == FEW


def test_an_interval_that_holds_a_bound_tells_nothing(evidence: Evidence) -> None:
    figure = judge(stated(a=side("pruned"), value={"at_least": 0}), evidence).findings[0].figure
    assert figure is not None
    document = judge(stated(a=side("pruned"), value={"at_least": figure}), evidence)
    assert verdict(document) is Verdict.CANNOT_TELL
    assert not document.all_met


@pytest.mark.parametrize("of", ["pruned", "quantized", "all"])
@pytest.mark.parametrize("take", ["mean", "best", "worst"])
def test_each_side_has_an_interval_of_its_own(evidence: Evidence, of: str, take: str) -> None:
    found = judge(stated(a=side(of, take=take), b=side("pruned"), difference={"at_least": 0}), evidence).findings[0]
    for one in (found.a, found.b):
        assert one is not None and one.interval is not None
        assert one.interval_reason is None
        assert one.interval.low <= one.value <= one.interval.high


def test_what_two_variants_have_in_common_leaves_their_difference(evidence: Evidence) -> None:
    """Both prunings got the same items wrong, so that the best and the worst of them differ by nothing, for sure."""
    sides = {"a": side("pruned", take="worst"), "b": side("pruned", take="best")}
    found = judge(stated(**sides, difference={"at_least": 0}), evidence).findings[0]
    assert (found.verdict, found.figure) == (Verdict.HOLDS, 0.0)
    assert found.interval is not None and (found.interval.low, found.interval.high) == (0.0, 0.0)


def test_both_sides_rest_on_the_values_that_all_of_their_variants_have(evidence: Evidence) -> None:
    """gptq alone has a perplexity in the same part; by itself its score is made of both values."""
    together = judge(stated(a=side("quantized"), b=side("pruned"), ratio={"at_least": 1.2}), evidence).findings[0]
    alone = judge(stated(a=side("quantized"), value={"at_least": 0}), evidence).findings[0]
    assert together.a is not None and together.b is not None and alone.a is not None
    assert (together.a.values, together.b.values, alone.a.values) == (1, 1, 2)
    assert together.a.value == pytest.approx(100.0)
    assert together.figure == pytest.approx(together.a.value / together.b.value)


def test_variants_that_a_claim_names_and_a_run_lacks_are_named(evidence: Evidence) -> None:
    found = judge(stated(a=side("pruned"), value={"at_least": 0}), evidence).findings[0]
    assert found.a is not None
    assert [member.variant for member in found.a.members] == [WANDA, SPARSEGPT]
    assert found.a.absent == ("llm-pruner",)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"of": "quantized", "track": 6}, "not measured"),
        ({"of": "pruned", "track": 2}, "not measured"),
    ],
)
def test_what_was_not_measured_has_a_reason(evidence: Evidence, asked: dict[str, object], reason: str) -> None:
    found = judge(stated(a=asked, value={"at_least": 0}), evidence).findings[0]
    assert (found.verdict, found.reason, found.figure) == (Verdict.NOT_MEASURED, reason, None)


def test_a_group_that_no_variant_belongs_to_is_not_measured(evidence: Evidence) -> None:
    claims = stated(a=side("pruned"), value={"at_least": 0}).model_dump(mode="json")
    claims["groups"]["pruned"] = {"methods": ["llm-pruner"], "settings": ["50%"]}
    found = judge(ClaimsFile.model_validate(claims), evidence).findings[0]
    assert found.reason == "the run has no llm-pruner at 50%"


def speeds(rounds: int) -> Evidence:
    """Dense decodes 100 tokens a second, gptq 150, give or take; dense again at the end of each round."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    taken: dict[Variant, list[Measurement]] = {DENSE: [], GPTQ: []}
    for number in range(rounds):
        for step, (variant, again, speed) in enumerate(((DENSE, False, 100), (GPTQ, False, 150), (DENSE, True, 101))):
            start = begin + timedelta(minutes=3 * number + step)
            one = Measurement(
                turn=Turn(round=number + 1, again=again),
                value=speed + number,
                source=f"{number}-{step}",
                begun=start,
                ended=start + timedelta(seconds=30),
            )
            taken[variant].append(one)
    place = Place(track=Track.HARDWARE_ACCELERATION, part="vllm", name="batch 1", model="tiny")
    values = Values(
        Value(
            place=place,
            variant=variant,
            value=math.prod(one.value for one in found) ** (1 / len(found)),
            higher_is_better=True,
            protocol="speed",
            measurements=tuple(found),
            source=found[0].source,
        )
        for variant, found in taken.items()
    )
    return Evidence(
        run="run",
        device="",
        variants=values.variants,
        checkpoints={},
        expectations=(expect(Track.HARDWARE_ACCELERATION, ("tiny",), backends=("vllm",)),),
        values=values,
        outcomes={},
        draws=Draws((), {}, FEW, values),
        categories={GPTQ: Category.INT4},
    )


@pytest.mark.parametrize(("rounds", "expected"), [(3, Verdict.HOLDS), (1, Verdict.CANNOT_TELL)])
def test_a_cost_of_one_round_tells_nothing(rounds: int, expected: Verdict) -> None:
    claims = stated(a=side("quantized", track=5, parts=["vllm"]), value={"at_least": 130})
    found = judge(claims, speeds(rounds)).findings[0]
    assert found.verdict is expected
    assert found.figure == pytest.approx(150, rel=0.02)
    assert found.reason == (None if rounds > 1 else "one round: no interval")


def test_a_category_has_a_figure_of_each_library_or_the_reason_why_not() -> None:
    timed = speeds(3)
    expectation = expect(Track.HARDWARE_ACCELERATION, ("tiny",), backends=("vllm", "native"))
    found = category_scores(replace(timed, expectations=(expectation,)))
    assert [(one.category, one.library) for one in found] == [
        (Category.INT4, "vllm"),
        (Category.INT4, "native"),
        (Category.INT4, None),
    ]
    told, missing, over_all = found
    assert told.figure is not None and over_all.figure is not None
    assert told.figure.value == over_all.figure.value == pytest.approx(150, rel=0.02)
    assert (told.reason, over_all.reason, missing.figure) == (None, None, None)
    assert missing.reason == NOT_MEASURED
    assert category_scores(replace(timed, expectations=())) == ()


def test_agreement_is_kendalls_tau_between_two_orders(tmp_path: Path) -> None:
    run = RunMaker(tmp_path)
    variants = [WANDA, SPARSEGPT, GPTQ]
    for variant, first, second in zip([DENSE, *variants], (0.9, 0.8, 0.6, 0.4), (0.9, 0.5, 0.3, 0.7), strict=True):
        for task, share in (("piqa", first), ("advglue", second)):
            run.add(variant, task, [1.0] * round(100 * share) + [0.0] * round(100 * (1 - share)))
    claims = stated(a=side("all"), b=side("all", track=6), agreement={"at_most": 0.5})
    found = judge(claims, run.evidence(FEW)).findings[0]
    assert found.figure == pytest.approx((1 - 2) / 3)
    assert found.interval is not None and -1 <= found.interval.low <= found.interval.high <= 1


@pytest.mark.parametrize(
    ("setting", "whole_units", "expected"),
    [
        ("50%", True, Category.STRUCTURED),
        ("official-flag:25%", True, Category.STRUCTURED),
        ("50%", False, Category.UNSTRUCTURED),
        ("2:4", False, Category.TWO_OF_FOUR),
        ("4:8", False, None),
        ("W8A8", False, Category.INT8),
        ("W4A16g128", False, Category.INT4),
        ("W3A16", False, None),
    ],
)
def test_the_category_of_a_setting(setting: str, whole_units: bool, expected: Category | None) -> None:
    assert category_of(Setting.parse(setting), whole_units=whole_units) is expected


PERPLEXITY = {"name": "p", "source": "a paper, Table 1", "model": "tiny", "task": "wikitext2", "tolerance_percent": 2}


@pytest.mark.parametrize(
    ("printed", "expected", "reason"),
    [
        ({"value": 1.01, "protocol": "p"}, Verdict.MET, None),
        ({"value": 1.03, "protocol": "p"}, Verdict.MISSED, None),
        ({"value": 1.01, "protocol": "q"}, Verdict.NOT_MEASURED, "measured by protocol 'p', published by 'q'"),
        (
            {"value": 1.01, "protocol": "p", "method": "awq", "setting": "W4A16"},
            Verdict.NOT_MEASURED,
            "the run has no wikitext2 of awq W4A16 of tiny",
        ),
    ],
)
def test_a_published_value_is_met_within_its_tolerance(
    evidence: Evidence, printed: dict[str, object], expected: Verdict, reason: str | None
) -> None:
    """`value` here is times what was measured."""
    measured = next(one.value for one in evidence.values if one.variant == DENSE and one.place.name == "wikitext2")
    scaled = {**PERPLEXITY, **printed, "value": measured * float(str(printed["value"]))}
    claims = ClaimsFile.model_validate({"schema_version": 1, "title": "t", "published": [scaled]})
    found = judge(claims, evidence).findings[0]
    assert (found.verdict, found.reason) == (expected, reason)
    assert found.figure == (None if reason else measured)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: [{name: a, says: s, source: t, a: {of: x, track: 1}, value: {at_least: 1}}]", "unknown group 'x'"),
        ("claims: [{name: a, says: s, source: t, a: {of: g, track: 1}}]", "has to have one of value"),
        (
            "claims: [{name: a, says: s, source: t, a: {of: g, track: 1}, ratio: {at_least: 1}}]",
            "a value is of a alone",
        ),
        ("claims: [{name: a, says: s, source: t, a: {of: g, track: 1}, value: {}}]", "give at_least, at_most or both"),
        ("claims: [{name: a, says: s, source: t, a: {of: g, track: 7}, value: {at_least: 1}}]", "claims.0.a.track"),
        (
            f"published: [{PERPLEXITY | {'value': 1, 'protocol': 'p'}}, {PERPLEXITY | {'value': 2, 'protocol': 'p'}}]",
            "'p'",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(f"schema_version: 1\ntitle: t\ngroups: {{g: {{}}}}\n{text}\n", encoding="utf-8")
    with pytest.raises(BadManifest, match=r"claims\.yaml, line \d") as refused:
        read_claims(path)
    assert message in refused.value.message


def test_bounds_hold_their_ends() -> None:
    assert (Bounds(at_most=2).low, Bounds(at_least=1).high) == (-math.inf, math.inf)


def test_every_published_value_is_of_something_that_its_manifest_measures() -> None:
    """The models are not at hand: what can be held here is that a run would have each value, by its protocol."""
    published = read_claims(shipped_claims()["published"]).published
    manifest = read_manifest(shipped_manifests()["published"])
    catalog = ImageCatalog(shipped_images())
    plan = build_plan(manifest, catalog, Device(kind=DeviceKind.CUDA), None)
    planned = {
        (stage.subject.model, Variant.of(stage.subject), str(stage.parameters.task))
        for stage in plan.stages
        if stage.subject is not None and isinstance(stage.parameters, EvaluateParameters)
    }
    wanted = {(one.model, one.variant, one.task) for one in published}
    assert len(published) >= 20
    assert wanted - planned == set()
    protocols = {name: task.protocol for name, (_, task) in catalog.tasks.items()}
    assert {one.name for one in published if one.protocol != protocols[one.task]} == set()
