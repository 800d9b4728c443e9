"""What two results of one stage are judged by, apart from runs: data, texts, divergences."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.contract import (
    DatasetDescriptor,
    DeviceKind,
    Dtype,
    Environment,
    EvaluateResult,
    FetchResult,
    FidelityResult,
    FileEntry,
    ResultEvent,
    WorkResult,
)
from harness.contract.divergence import divergence_metrics
from harness.contract.items import FidelityItem, Item, JudgedItem, PageItem
from orchestrator.artifact.contents import Tolerances
from orchestrator.artifact.judging import Side, judge_stage, why_other
from orchestrator.artifact.reproduction import Judgement, Kind, Verdict, Why
from orchestrator.store import StageRecord

PASS, FAIL, NOT_RUN = Verdict.PASS, Verdict.FAIL, Verdict.NOT_RUN


def side(result: WorkResult, items: tuple[Any, ...] = (), family: str | None = "one", **material: Any) -> Side:
    environment = Environment(
        harness_digest="0" * 64,
        python="3",
        platform="p",
        device_kind=DeviceKind.CPU,
        device_model="m",
        cpu_family=family,
        threads=1,
        libraries={},
    )
    final = ResultEvent(id="stage", result=result, environment=environment, wall_seconds=1.0)
    provenance = SimpleNamespace(material=material)
    artifact = result.artifact if isinstance(result, FetchResult) else None
    stage = cast(StageRecord, SimpleNamespace(final=final, provenance=provenance, artifact=artifact))
    outcomes = SimpleNamespace(items=lambda _: items, divergences=lambda _: items)
    return Side(stage, cast(Any, SimpleNamespace(outcomes=outcomes)))


def judged(packed: Side, here: Side) -> dict[Kind, Judgement]:
    return {one.kind: one for one in judge_stage("stage", packed, here, Tolerances())}


@pytest.mark.parametrize(
    ("material", "family", "reason"),
    [
        ({}, "one", None),
        ({}, "another", "on another processor"),
        ({}, None, "on another processor"),
        ({"code": {"a": "1"}}, "one", "of other source"),
        ({"image": "b"}, "one", "in another environment"),
        ({"device": {"threads": 2}}, "one", "with other threads or devices"),
        ({"inputs": {"dataset": "b"}}, "one", "of other inputs"),
    ],
)
def test_bytes_are_equal_where_all_that_decides_them_is(
    material: dict[str, Any], family: str | None, reason: str | None
) -> None:
    before = {"code": {"a": "0"}, "image": "a", "device": {"threads": 1}, "inputs": {"dataset": "a"}}
    result = FetchResult(artifact=rows("pypi", 1))
    packed = side(result, family="one", **before).stage
    assert why_other(packed, side(result, family=family, **{**before, **material}).stage) == reason


def test_a_processor_that_does_not_say_its_family_is_of_none() -> None:
    result = FetchResult(artifact=rows("pypi", 1))
    one = side(result, family=None).stage
    assert why_other(one, one) == "on another processor"


def rows(origin: str, size: int) -> DatasetDescriptor:
    files = {"test.jsonl.gz": FileEntry(size_bytes=size, sha256=f"{size:064x}")}
    return DatasetDescriptor(name="piqa", origin=origin, rows={"test": 5}, files=files)


@pytest.mark.parametrize(
    ("origin", "size", "verdict", "says"),
    [
        ("pypi", 1, PASS, "bytes"),
        ("pypi", 2, FAIL, "its rows are other ones, of the same origin"),
        ("local", 2, NOT_RUN, "its rows are local's here, and were pypi's"),
    ],
)
def test_rows_are_equal_unless_they_come_from_elsewhere(origin: str, size: int, verdict: Verdict, says: str) -> None:
    found = judged(side(FetchResult(artifact=rows("pypi", 1))), side(FetchResult(artifact=rows(origin, size))))
    assert found[Kind.BYTES].verdict is verdict and says in found[Kind.BYTES].says
    assert found[Kind.BYTES].why is (Why.OTHERWISE if verdict is NOT_RUN else None)


def test_equal_rows_of_which_something_else_is_said_are_not_called_other_ones() -> None:
    again = rows("pypi", 1).model_copy(update={"notes": ("fetched on another day",)})
    found = judged(side(FetchResult(artifact=rows("pypi", 1))), side(FetchResult(artifact=again)))[Kind.BYTES]
    assert (found.verdict, found.says) == (PASS, "all files; what is said of them beside differs")


def evaluated(metric: str = "acc", value: float = 0.5) -> EvaluateResult:
    return EvaluateResult(
        task="task",
        protocol="p",
        metric=metric,
        metrics={metric: value},
        items=20,
        items_available=20,
        items_file="items.jsonl.zst",
        dataset_origin="pypi",
        dtype=Dtype.FLOAT32,
        dtype_reason="test",
        wall_seconds=1.0,
    )


def answers(wrong: int, first: int = 0) -> tuple[Item, ...]:
    return tuple(
        JudgedItem(index=index, document=f"{first + index}", correct={"score": float(index >= wrong)})
        for index in range(20)
    )


@pytest.mark.parametrize(("wrong", "verdict"), [(1, PASS), (2, FAIL)])
def test_of_answers_without_log_likelihoods_what_is_correct_is_the_pick(wrong: int, verdict: Verdict) -> None:
    found = judged(side(evaluated(), answers(0)), side(evaluated(), answers(wrong), family="another"))
    assert found.keys() == {Kind.PICKS} and found[Kind.PICKS].verdict is verdict
    assert found[Kind.PICKS].says == f"{wrong} of 20 otherwise, 1 may be"


@pytest.mark.parametrize(("data", "verdict"), [("same", FAIL), ("other", NOT_RUN)])
def test_other_items_fail_unless_they_are_of_other_data(data: str, verdict: Verdict) -> None:
    packed = side(evaluated(), answers(0), inputs={"dataset": "same"})
    found = judged(packed, side(evaluated(), answers(0, first=1), inputs={"dataset": data}))
    assert found[Kind.PICKS].verdict is verdict


@pytest.mark.parametrize(("percent", "verdict"), [(0.9, PASS), (1.1, FAIL)])
def test_a_perplexity_lies_within_a_percent_and_its_nats_are_those_of_ten_tokens(
    percent: float, verdict: Verdict
) -> None:
    def pages(nats: float) -> tuple[Item, ...]:
        page = {"document": "d", "words": 10, "bytes": 60, "tokens": 20}
        return tuple(PageItem(index=n, negative_log_likelihood=nats, **page) for n in range(3))

    one, two = evaluated("word_perplexity", 20.0), evaluated("word_perplexity", 20.0 * (1 + percent / 100))
    found = judged(side(one, pages(50.0)), side(two, pages(51.0), family="another"))
    assert found[Kind.PERPLEXITY].verdict is verdict
    assert found[Kind.LOG_LIKELIHOODS].says.startswith("0.5 nats in 10 tokens on average")


def compared(same_top: int, nats: float) -> tuple[FidelityResult, tuple[FidelityItem, ...]]:
    items = (
        FidelityItem(index=0, tokens=100, divergences=(0.1,) * 100, same_top=same_top, nats=nats, dense_nats=300.0),
    )
    return (
        FidelityResult(
            task="task",
            protocol="p",
            states="0" * 64,
            metrics=divergence_metrics(items),
            items=1,
            items_available=1,
            tokens=100,
            items_file="items.jsonl.zst",
            dtype=Dtype.FLOAT32,
            dtype_reason="test",
            wall_seconds=1.0,
            load_seconds=1.0,
            score_seconds=1.0,
        ),
        items,
    )


def test_divergences_from_dense_are_equal_here_and_alike_elsewhere() -> None:
    packed = side(*compared(90, 310.0))
    assert {kind: one.verdict for kind, one in judged(packed, packed).items()} == {Kind.BYTES: PASS}
    assert judged(packed, side(*compared(91, 310.0)))[Kind.BYTES].verdict is FAIL
    near = judged(packed, side(*compared(83, 310.9), family="another"))
    assert {kind: one.verdict for kind, one in near.items()} == {Kind.DIVERGENCE: PASS, Kind.PERPLEXITY: PASS}
    far = judged(packed, side(*compared(81, 311.1), family="another"))
    assert {kind: one.verdict for kind, one in far.items()} == {Kind.DIVERGENCE: FAIL, Kind.PERPLEXITY: FAIL}
