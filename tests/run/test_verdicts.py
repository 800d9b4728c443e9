"""Whatever a worker does, the orchestrator comes to one verdict; only full agreement is a result."""

from pathlib import Path

import pytest

from harness.contract import (
    RESULT_NAME,
    BenchmarkParameters,
    BenchmarkResult,
    CheckpointDescriptor,
    CheckpointFormat,
    DatasetDescriptor,
    DatasetSource,
    DeviceKind,
    Dtype,
    Environment,
    ErrorCode,
    ErrorEvent,
    EvaluateParameters,
    EvaluateResult,
    EvaluationCost,
    FetchParameters,
    FetchResult,
    FinalEvent,
    HubModel,
    ImageDescription,
    Memory,
    Operation,
    Parameters,
    ProfileParameters,
    Reason,
    Result,
    ResultEvent,
    Speed,
    TextFile,
)
from harness.contract.items import NOT_FINITE
from orchestrator.images.image import Image
from orchestrator.run.verdict import judge
from orchestrator.runtime.base import Completed, Ending, Invocation
from orchestrator.stages import OUTPUT_NAME, STDERR_NAME, Limits
from orchestrator.store import Failure, FailureKind
from tests.support.stage_workers import questions, write_items

ENVIRONMENT = Environment(
    harness_digest="0", python="3", platform="p", device_kind=DeviceKind.CPU, device_model="m", threads=1, libraries={}
)
RESULT = EvaluateResult(
    task="t",
    protocol="p",
    metric="acc",
    metrics={"acc": 0.5},
    items=2,
    items_available=2,
    items_file="items.jsonl.zst",
    dataset_origin="local",
    dtype=Dtype.FLOAT32,
    dtype_reason="r",
    wall_seconds=1,
)
COST = EvaluationCost(
    prepare_seconds=1,
    load_seconds=1,
    score_seconds=4,
    scored_items=2,
    asked_tokens=30,
    computed_tokens=20,
    padding_tokens=0,
    items_per_second=0.5,
    tokens_per_second=5,
    parameter_count=1,
)
ASKED = EvaluateParameters(task="t")
ANSWER = ResultEvent(id="stage", result=RESULT, environment=ENVIRONMENT, wall_seconds=1)
UNSUPPORTED = ErrorEvent(id="stage", code=ErrorCode.UNSUPPORTED, reason=Reason.SHAPE, message="no", hint="other")


def verdict(
    folder: Path,
    *,
    ending: Ending = Ending.EXITED,
    exit_code: int = 0,
    final: FinalEvent | None = ANSWER,
    violation: str | None = None,
    written: str | None = ANSWER.model_dump_json(),
    operation: Operation = Operation.EVALUATE,
    parameters: Parameters = ASKED,
) -> ResultEvent | Failure:
    (folder / OUTPUT_NAME).mkdir()
    write_items(folder / OUTPUT_NAME / RESULT.items_file, questions([True, False], RESULT.metric))
    if written is not None:
        (folder / OUTPUT_NAME / RESULT_NAME).write_text(written, encoding="utf-8")
    (folder / STDERR_NAME).write_text("first\nlast words\n", encoding="utf-8")
    completed = Completed(ending, exit_code, 1.0, final, violation)
    description = ImageDescription(name="i", summary="s", operations=(operation,), devices=(DeviceKind.CPU,))
    asked = Invocation(
        Image(folder, description), operation, parameters, folder, "stage", "run", limits=Limits(deadline_seconds=5)
    )
    return judge(asked, completed)


def test_agreement_of_stdout_file_and_status_is_a_result(tmp_path: Path) -> None:
    assert verdict(tmp_path) == ANSWER


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ({"ending": Ending.TIMED_OUT, "final": None}, FailureKind.TIMED_OUT, "5 s"),
        ({"ending": Ending.CANCELLED, "final": None}, FailureKind.INTERRUPTED, "stopped"),
        ({"ending": Ending.KILLED_FOR_MEMORY, "exit_code": 137}, FailureKind.OUT_OF_MEMORY, "memory"),
        ({"ending": Ending.KILLED_FOR_DISK, "exit_code": 137}, FailureKind.DISK_FULL, "the disk below its output"),
        ({"exit_code": -9, "final": None}, FailureKind.OUT_OF_MEMORY, "signal 9"),
        ({"exit_code": 1, "final": None}, FailureKind.CRASHED, "last words"),
        (
            {"ending": Ending.BROKE_CONTRACT, "violation": "a line that is no event: 'hello'"},
            FailureKind.CONTRACT_VIOLATION,
            "hello",
        ),
        ({"ending": Ending.TIMED_OUT, "exit_code": -9}, FailureKind.CONTRACT_VIOLATION, "had not ended after 5 s"),
        ({"ending": Ending.STAYED, "exit_code": -15}, FailureKind.CONTRACT_VIOLATION, "120 s later it had not ended"),
        ({"exit_code": 5}, FailureKind.CONTRACT_VIOLATION, "says otherwise"),
        ({"written": None}, FailureKind.CONTRACT_VIOLATION, RESULT_NAME),
        ({"written": "{"}, FailureKind.CONTRACT_VIOLATION, RESULT_NAME),
        (
            {"written": ANSWER.model_copy(update={"wall_seconds": 2.0}).model_dump_json()},
            FailureKind.CONTRACT_VIOLATION,
            "differs",
        ),
        ({"final": ANSWER.model_copy(update={"id": "other"})}, FailureKind.CONTRACT_VIOLATION, "'other'"),
        ({"final": UNSUPPORTED, "exit_code": 3}, FailureKind.UNSUPPORTED, "no"),
        (
            {"final": UNSUPPORTED.model_copy(update={"id": "other"}), "exit_code": 3},
            FailureKind.CONTRACT_VIOLATION,
            "'other'",
        ),
        ({"final": UNSUPPORTED, "exit_code": 0}, FailureKind.CONTRACT_VIOLATION, "says otherwise"),
    ],
)
def test_everything_else_is_one_failure(
    tmp_path: Path, facts: dict[str, object], kind: FailureKind, words: str
) -> None:
    failure = verdict(tmp_path, **facts)  # type: ignore[arg-type]
    assert isinstance(failure, Failure)
    assert failure.kind is kind
    assert words in failure.message


def test_unsupported_keeps_its_reason_and_hint(tmp_path: Path) -> None:
    failure = verdict(tmp_path, final=UNSUPPORTED, exit_code=3)
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.hint) == (Reason.SHAPE, "other")


DATA = DatasetDescriptor(name="d", origin="local", rows={"test": 1}, files={})
CHECKPOINT = CheckpointDescriptor(
    format=CheckpointFormat.DENSE,
    dtype=Dtype.FLOAT32,
    architecture="a",
    parameter_count=1,
    source=f"hub:org/name@{'0' * 40}",
    files={},
)
BENCHMARK = BenchmarkResult(
    backend="b",
    protocol="p",
    speeds=(Speed(batch_size=1, decode_tokens_per_second=1, samples=(1,), prefill_tokens_per_second=1),),
    load_seconds=1,
    memory=Memory(peak_memory_bytes=1, method="peak-rss"),
    dtype=Dtype.FLOAT32,
    dtype_reason="r",
)
TEXT = TextFile(file="texts.txt", sha256="0" * 64)
MODEL = HubModel(repository="org/name", revision="0" * 40)


def answering(
    folder: Path, operation: Operation, parameters: Parameters, result: Result
) -> tuple[ResultEvent, ResultEvent | Failure]:
    answer = ANSWER.model_copy(update={"result": result})
    return answer, verdict(
        folder, final=answer, written=answer.model_dump_json(), operation=operation, parameters=parameters
    )


@pytest.mark.parametrize(
    ("operation", "parameters", "result", "words"),
    [
        (Operation.PROFILE, ProfileParameters(), RESULT, "result.operation is 'evaluate', and 'profile' was asked"),
        (Operation.FETCH, FetchParameters(source=MODEL), RESULT, "result.operation is 'evaluate', and 'fetch' was"),
        (
            Operation.FETCH,
            FetchParameters(source=MODEL),
            FetchResult(artifact=DATA),
            "result.artifact.artifact is 'dataset', and 'checkpoint' was asked for",
        ),
        (
            Operation.FETCH,
            FetchParameters(source=DatasetSource(name="d")),
            FetchResult(artifact=CHECKPOINT),
            "result.artifact.artifact is 'checkpoint', and 'dataset' was asked for",
        ),
        (Operation.EVALUATE, EvaluateParameters(task="u"), RESULT, "result.task is 't', and 'u' was asked for"),
        (
            Operation.EVALUATE,
            EvaluateParameters(task="t", engine="vllm"),
            RESULT,
            "result.engine is 'transformers', and 'vllm' was asked for",
        ),
        (Operation.BENCHMARK, BenchmarkParameters(backend="c"), BENCHMARK, "result.backend is 'b', and 'c' was asked"),
    ],
)
def test_an_answer_to_something_else_breaks_the_contract_and_the_field_is_named(
    tmp_path: Path, operation: Operation, parameters: Parameters, result: Result, words: str
) -> None:
    _, failure = answering(tmp_path, operation, parameters, result)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CONTRACT_VIOLATION
    assert words in failure.message


@pytest.mark.parametrize(
    ("operation", "parameters", "result"),
    [
        (Operation.FETCH, FetchParameters(source=MODEL), FetchResult(artifact=CHECKPOINT)),
        (Operation.FETCH, FetchParameters(source=TEXT), FetchResult(artifact=DATA)),
        (Operation.FETCH, FetchParameters(source=DatasetSource(name="d")), FetchResult(artifact=DATA)),
        (Operation.BENCHMARK, BenchmarkParameters(backend="b", batch_sizes=(1,)), BENCHMARK),
    ],
)
def test_an_answer_to_what_was_asked_is_a_result(
    tmp_path: Path, operation: Operation, parameters: Parameters, result: Result
) -> None:
    answer, found = answering(tmp_path, operation, parameters, result)
    assert found == answer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": {"acc": 0.6}}, "acc is said to be 0.6, and the outcomes of its items give 0.5"),
        ({"items": 1}, "1 items are said to be scored, and there are outcomes of 2"),
        ({"excluded": {"unlabelled": 1}}, "3 items are scored or excluded, and it is asked for 2 of 2"),
        ({"items_available": 9}, "2 items are scored or excluded, and it is asked for 9 of 9"),
        ({"excluded": {NOT_FINITE: 1}}, "1 items are said to be excluded as log_likelihood_not_finite, and 0 are"),
        ({"truncated_items": 3}, "3 of 2 items are said to be truncated"),
        ({"items_file": "other.jsonl.zst"}, "the outcomes of the items (other.jsonl.zst) are not there"),
        ({"items_file": "../../../../etc/passwd"}, "the outcomes of the items (passwd) are not there"),
        ({"cost": COST.model_copy(update={"scored_items": 1})}, "the cost counts 1 items, and there are 2"),
        ({"cost": COST.model_copy(update={"items_per_second": 3})}, "items_per_second is said to be 3, with 2 in 4 s"),
        ({"cost": COST.model_copy(update={"tokens_per_second": 6})}, "tokens_per_second is said to be 6, with 20 in"),
    ],
)
def test_figures_that_the_items_do_not_give_break_the_contract(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    _, failure = answering(tmp_path, Operation.EVALUATE, ASKED, RESULT.model_copy(update=changes))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CONTRACT_VIOLATION
    assert words in failure.message


def test_a_limit_bounds_what_is_due(tmp_path: Path) -> None:
    many = RESULT.model_copy(update={"items_available": 9, "cost": COST})
    answer, found = answering(tmp_path, Operation.EVALUATE, EvaluateParameters(task="t", limit=2), many)
    assert found == answer
