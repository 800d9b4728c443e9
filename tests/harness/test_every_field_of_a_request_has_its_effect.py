"""Whatever a request says differently makes another answer, but for what is listed here with its reason."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.contract import (
    BenchmarkParameters,
    Calibration,
    CalibrationPolicy,
    CompressParameters,
    Device,
    EvaluateParameters,
    ExportParameters,
    FidelityParameters,
    Operation,
    Parameters,
    ProfileParameters,
    Setting,
    Slice,
    StatesParameters,
    StatesRequest,
    WorkRequest,
)
from harness.contract.request import REQUEST
from harness.errors import WorkerError
from harness.fidelity import keeping
from harness.operations import perform
from tests.exporting.export_requests import GPTQ, PACK
from tests.support.other_values import FieldPath, field_paths, with_other_value
from tests.support.quantized_weights import case, publish_quantized
from tests.support.small_checkpoints import Recorder, publish_checkpoint, publish_dataset, small_model
from tests.support.tiny_checkpoints import publish_model, publish_rows, tiny_model, tiny_text

TEXT = "wikitext2-maxctx"
REQUESTS: dict[str, Parameters] = {
    "compress": CompressParameters(
        method="sparsegpt",
        setting=Setting.parse("50%"),
        calibration=Calibration(
            dataset="c4", samples=4, sequence_length=16, seed=0, policy=CalibrationPolicy.PACKED, evaluated=("piqa",)
        ),
        options={"percdamp": 0.01},
    ),
    "export": ExportParameters(target=GPTQ),
    "evaluate": EvaluateParameters(task="arc_easy", limit=4, slice=Slice(items=2), token_budget=64),
    "states": StatesParameters(task=TEXT, limit=2, token_budget=64),
    "fidelity": FidelityParameters(task=TEXT, limit=1),
    "profile": ProfileParameters(macs_tokens=8, prompt_tokens=8, generate_tokens=4),
    "benchmark": BenchmarkParameters(
        backend="native",
        prompt_tokens=8,
        generate_tokens=4,
        batch_sizes=(1, 2),
        repeats=1,
        kv_tokens=64,
        options={"decoding": "growing"},
    ),
}
VALUES: dict[str, Any] = {
    "compress.method": "wanda",
    "compress.calibration.evaluated": ("c4",),
    "compress.setting.zeros_of": (2, 4),
    "evaluate.token_budget": 1000,
    "benchmark.backend": "transformers",
    "benchmark.options": {"decoding": "static"},
}
"""Other values that mean something, where a value of the type alone would only be refused."""
WITHOUT_EFFECT = {
    "compress.setting.official_flag": "of LLM-Pruner's settings",
    "compress.setting.weight_bits": "of quantizations",
    "compress.setting.activation_bits": "of quantizations",
    "compress.setting.group_size": "of quantizations",
    "compress.offload_activations": "where activations wait: the weights are the same to the last bit",
    "evaluate.processes": "who scores which items: the outcomes are the same",
}
NOT_RUN = {"evaluate.processes": "starts processes; tests/evaluation/test_flow_processes.py does"}
MEASURED = (
    "seconds", "memory", "per_second", "free_bytes", "samples", "interval", "noise_floor", "latency", "peak", "bounds",
)  # fmt: skip
"""Words in the names of fields that hold what a clock or a counter of this machine gave."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("inputs")
    publish_model(folder / "tiny", tiny_model("llama"))
    publish_rows(folder / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])
    publish_quantized(folder / "packed", "llama", case(PACK, 4, 16, symmetric=False))
    questions = [
        {
            "id": str(number),
            "question": f"How many stones are {number} stones?",
            "choices": {"text": [f"{number}", "none at all", "far more"], "label": ["A", "B", "C"]},
            "answerKey": "ABC"[number % 3],
        }
        for number in range(8)
    ]
    small = str(publish_checkpoint(folder / "small", small_model("llama")))
    rows = [{"text": f" It rained on day {day} .\n"} for day in range(40)]
    text = str(publish_dataset(folder / "wikitext2", "wikitext2", {"test": rows}))
    (folder / "made").mkdir()
    states = StatesRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": small, "dataset": text},
        output=str(folder / "made"),
        parameters=REQUESTS["states"],
    )
    keeping.run(states, Recorder().reporter)
    return {
        "compress": {"checkpoint": str(folder / "tiny"), "calibration": str(folder / "c4")},
        "export": {"checkpoint": str(folder / "packed")},
        "evaluate": {
            "checkpoint": small,
            "dataset": str(publish_dataset(folder / "arc_easy", "arc_easy", {"test": questions})),
        },
        "states": {"checkpoint": small, "dataset": text},
        "fidelity": {
            "checkpoint": str(publish_checkpoint(folder / "other", small_model("llama", seed=1))),
            "states": str(folder / "made" / "artifact"),
        },
        "profile": {"checkpoint": small},
        "benchmark": {"checkpoint": small},
    }


@pytest.fixture(scope="module")
def answer(
    inputs: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, Parameters], object]]:
    """What a worker answers, without what it measured; or how it refuses. No engine is found to get faster."""

    def work(operation: str, parameters: Parameters) -> object:
        output = tmp_path_factory.mktemp("output")
        request = REQUEST.validate_python(
            {
                "id": "test",
                "operation": operation,
                "device": Device(threads=1),
                "inputs": inputs[operation],
                "output": str(output),
                "parameters": parameters,
            }
        )
        assert isinstance(request, WorkRequest)
        try:
            return _without_measurements(perform(request, Recorder().reporter).model_dump(mode="json"))
        except WorkerError as refusal:
            return type(refusal).__name__, refusal.message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.backends.timing.still_warming_up", lambda seconds: False)
        yield work


def _without_measurements(document: Any) -> Any:
    """Of what was measured, how often it was."""
    if isinstance(document, list):
        return [_without_measurements(one) for one in document]
    if not isinstance(document, dict):
        return document
    measured = {name for name in document if any(word in name for word in MEASURED)}
    counts = {name: len(document[name]) for name in measured if isinstance(document[name], list)}
    return counts | {name: _without_measurements(one) for name, one in document.items() if name not in measured}


@pytest.fixture(scope="module")
def plain(answer: Callable[[str, Parameters], object]) -> dict[str, object]:
    """The answers to the requests as they are."""
    return {name: answer(name, parameters) for name, parameters in REQUESTS.items()}


CASES = [(name, path) for name, parameters in REQUESTS.items() for path in field_paths(parameters)]


def named(name: str, path: FieldPath) -> str:
    return ".".join((name, *map(str, path)))


@pytest.mark.parametrize(
    ("operation", "path"),
    [pytest.param(*one, id=named(*one)) for one in CASES if named(*one) not in NOT_RUN],
)
def test_a_field_makes_another_answer_unless_it_is_known_not_to(
    operation: str,
    path: FieldPath,
    answer: Callable[[str, Parameters], object],
    plain: dict[str, object],
) -> None:
    assert isinstance(plain[operation], dict), plain[operation]
    name = named(operation, path)
    other = with_other_value(REQUESTS[operation], path, VALUES.get(name))
    assert (answer(operation, other) == plain[operation]) is (name in WITHOUT_EFFECT)


def test_an_answer_to_one_request_is_the_same_twice(
    answer: Callable[[str, Parameters], object], plain: dict[str, object]
) -> None:
    for operation, parameters in REQUESTS.items():
        assert answer(operation, parameters) == plain[operation]


def test_what_is_listed_is_a_field_and_every_operation_is_held_to_the_law() -> None:
    assert {*VALUES, *WITHOUT_EFFECT, *NOT_RUN} <= {named(*one) for one in CASES}
    elsewhere = {Operation.DESCRIBE, Operation.FETCH}  # the one takes nothing, the other's sources are tests/fetch's
    assert {Operation(name) for name in REQUESTS} == set(Operation) - elsewhere
