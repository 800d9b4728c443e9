"""The installed vLLM itself on the zoo's trained models: the weights it computes with, what it refuses, what it times.

Takes minutes, most of them for importing vLLM twice. Runs in the environment of `images/vllm/locks/cpu.txt`.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from harness import evaluation
from harness.backends import run
from harness.backends.vllm.scoring import open_scorer
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    CheckpointFormat,
    Device,
    Dtype,
    EvaluateParameters,
    EvaluateRequest,
    EvaluateResult,
    Reason,
)
from harness.contract.items import ChoiceItem
from harness.errors import Unsupported
from harness.evaluation.outcomes import read_items
from harness.evaluation.prepared import TokenRequest
from harness.models.loading import load_model
from tests.support.small_checkpoints import Recorder, publish_checkpoint, publish_dataset, small_model
from tests.support.stored_zoo import Stored, quantize, stored
from tests.support.zoo import zoo_checkpoint

pytest.importorskip("vllm", reason="vllm is installed in the environment of the image `vllm` alone")

DEVICE = Device(threads=1)
VOCABULARY = 1024
PACK, INT = CheckpointFormat.PACK_QUANTIZED, CheckpointFormat.INT_QUANTIZED
GPTQ, AWQ = CheckpointFormat.GPTQ, CheckpointFormat.AWQ


SERVED = (
    stored(PACK, 4, symmetric=True),
    stored(PACK, 4, symmetric=False),
    stored(INT, 8, symmetric=True, activation_bits=8),
    stored(GPTQ, 4, symmetric=True),
    stored(AWQ, 4, symmetric=False),
)
REFUSED = (
    stored(PACK, 8, symmetric=True),
    stored(PACK, 3, symmetric=True),
    stored(GPTQ, 4, symmetric=False),
    stored(GPTQ, 8, symmetric=True),
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "llama-gqa"
    zoo_checkpoint("llama-gqa", folder)
    return folder


def requests() -> list[TokenRequest]:
    generator = torch.Generator().manual_seed(3)

    def draw(tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (tokens,), generator=generator).tolist())

    return [TokenRequest(draw(context), draw(rest)) for context, rest in ((5, 3), (40, 20), (1, 60), (70, 8), (9, 30))]


def reference(checkpoint: Path) -> list[float]:
    """The same sums from transformers in float32, with the weights dequantized by this project's own decoders."""
    model = load_model(checkpoint, DEVICE, Dtype.FLOAT32).model
    sums = []
    for request in requests():
        tokens = torch.tensor([[*request.context, *request.continuation]])
        places = model(input_ids=tokens).logits.float().log_softmax(dim=-1)[0, len(request.context) - 1 : -1]
        sums.append(float(places.gather(1, torch.tensor(request.continuation)[:, None]).double().sum()))
    return sums


def deployed(checkpoint: Path, dtype: Dtype | None = None, **steps: int) -> list[float]:
    with open_scorer(checkpoint, DEVICE, dtype, context_tokens=128, sequences=3, **steps) as scorer:
        answers = dict(scorer.score(requests()))
    assert sorted(answers) == list(range(len(requests())))
    return [answers[index].log_likelihood for index in sorted(answers)]


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Root mean square of the differences, in nats."""
    return (sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / len(first)) ** 0.5


def test_dense_weights_give_the_likelihoods_of_transformers(dense: Path) -> None:
    assert deployed(dense, Dtype.FLOAT32) == pytest.approx(reference(dense), rel=1e-5)


def test_prompts_longer_than_a_step_give_the_same_likelihoods(dense: Path) -> None:
    assert deployed(dense, Dtype.FLOAT32, step_tokens=32) == pytest.approx(reference(dense), rel=1e-5)


def evaluated(dense: Path, data: Path, output: Path, engine: str) -> tuple[EvaluateResult, tuple[ChoiceItem, ...]]:
    output.mkdir()
    request = EvaluateRequest(
        id="test",
        device=DEVICE,
        inputs={"checkpoint": str(dense), "dataset": str(data)},
        output=str(output),
        parameters=EvaluateParameters(task="arc_easy", engine=engine, dtype=Dtype.FLOAT32),
    )
    result = evaluation.run(request, Recorder().reporter)
    return result, read_items(output / result.items_file, ChoiceItem)


def test_a_task_gets_the_outcomes_of_the_reference(dense: Path, tmp_path: Path) -> None:
    """With the task definitions of the lm-eval that is installed beside vLLM."""
    answers = {"text": ["yes", "no, it is a letter", "perhaps"], "label": ["A", "B", "C"]}
    rows = [
        {"id": str(number), "question": f"Is {number} a number?", "choices": answers, "answerKey": "A"}
        for number in range(12)
    ]
    data = publish_dataset(tmp_path / "data", "arc_easy", {"test": rows})
    result, deployed_items = evaluated(dense, data, tmp_path / "vllm", "vllm")
    _, reference_items = evaluated(dense, data, tmp_path / "transformers", "transformers")
    assert result.protocol == "vllm/choice/arc_easy@lm-eval-0.4.13"
    assert [item.document for item in deployed_items] == [item.document for item in reference_items]
    for ours, theirs in zip(deployed_items, reference_items, strict=True):
        assert ours.log_likelihoods == pytest.approx(theirs.log_likelihoods, rel=1e-4)


@pytest.mark.parametrize("how", SERVED, ids=str)
def test_packed_weights_are_read_as_this_project_reads_them(dense: Path, tmp_path: Path, how: Stored) -> None:
    """Where activations are rounded too, a change of the input by 1e-5 already moves the sums as far as the method."""
    packed = quantize(dense, tmp_path / "packed", how)
    expected = reference(packed)
    changed_by_the_method = distance(reference(dense), expected)
    share = 2.0 if how.quantization.activation_bits < 16 else 0.25
    assert distance(deployed(packed, Dtype.FLOAT16), expected) < share * changed_by_the_method


def test_a_dtype_that_no_kernel_for_packed_weights_computes_in_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="vLLM refuses this checkpoint") as refusal:
        deployed(quantize(dense, tmp_path / "packed", stored(PACK, 4, symmetric=True)), Dtype.FLOAT32)
    assert refusal.value.reason is Reason.DTYPE


@pytest.mark.parametrize("how", REFUSED, ids=str)
def test_packed_weights_that_no_kernel_takes_are_refused_with_the_reason(
    dense: Path, tmp_path: Path, how: Stored
) -> None:
    with pytest.raises(Unsupported, match="vLLM refuses this checkpoint") as refusal:
        deployed(quantize(dense, tmp_path / "packed", how))
    assert refusal.value.reason is Reason.FORMAT


def test_a_benchmark_counts_times_and_says_what_it_did(dense: Path, tmp_path: Path) -> None:
    request = BenchmarkRequest(
        id="test",
        device=DEVICE,
        inputs={"checkpoint": str(dense)},
        output=str(tmp_path),
        parameters=BenchmarkParameters(
            backend="vllm", prompt_tokens=24, generate_tokens=16, batch_sizes=(1, 3), repeats=2
        ),
    )
    result = run(request, Recorder().reporter)
    assert [(speed.batch_size, len(speed.samples)) for speed in result.speeds] == [(1, 2), (3, 2)]
    assert all(speed.prefill_tokens_per_second > 0 for speed in result.speeds)
    assert result.dtype is Dtype.BFLOAT16
    assert result.memory.peak_memory_bytes > 0
    assert "key-value cache of 512 tokens, reserved before the first run" in result.notes


def test_heads_of_a_size_without_a_kernel_are_refused(tmp_path: Path) -> None:
    checkpoint = publish_checkpoint(tmp_path / "small-heads", small_model("llama"))
    with (
        pytest.raises(Unsupported) as refusal,
        open_scorer(checkpoint, DEVICE, None, context_tokens=64, sequences=1) as scorer,
    ):
        list(scorer.score([TokenRequest((1, 2), (3,))]))
    assert refusal.value.reason is Reason.SHAPE
