"""What an export writes beside its tensors: the index, the documents, the copied files, what it says meanwhile."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from harness.contract import CheckpointFormat, ExportParameters, ExportRequest, ExportResult
from harness.exporting import run
from harness.exporting.source import Source
from tests.exporting.export_requests import AWQ, DENSE, GPTQ, MODELOPT_AWQ, MODELOPT_FP8, PACK, export
from tests.support.quantized_weights import case, publish_quantized
from tests.support.small_checkpoints import Recorder
from tests.support.tiny_checkpoints import publish_model, tiny_model

INDEX = "model.safetensors.index.json"


def exported(checkpoint: Path, output: Path, target: CheckpointFormat) -> tuple[ExportResult, Recorder]:
    recorder = Recorder()
    request = ExportRequest(
        id="export",
        inputs={"checkpoint": str(checkpoint)},
        output=str(output),
        parameters=ExportParameters(target=target),
    )
    return run(request, recorder.reporter), recorder


@pytest.mark.parametrize("target", [GPTQ, DENSE], ids=lambda target: target.value)
def test_a_checkpoint_in_shards_has_a_true_index_and_everything_else_as_it_was(
    tmp_path: Path, target: CheckpointFormat
) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    publish_quantized(source, "llama", case(PACK, 4, 16, symmetric=False), shard_size="20KB")
    (output / ".artifact.partial").mkdir(parents=True)
    (output / ".artifact.partial" / "left").write_text("by a try that was killed", encoding="utf-8")
    result, recorder = exported(source, output, target)
    folder = output / "artifact"
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    found = {shard: load_file(folder / shard) for shard in shards}
    for shard in shards:
        with safe_open(folder / shard, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    for text in ((folder / name).read_text(encoding="utf-8") for name in (INDEX, "config.json")):
        assert text == json.dumps(json.loads(text), indent=2) + "\n"
    assert index["weight_map"] == {name: shard for shard, tensors in found.items() for name in tensors}
    sizes = [tensor.nbytes for tensors in found.values() for tensor in tensors.values()]
    assert index["metadata"] == {"total_size": sum(sizes)}
    progress = [(one["done"], one["total"], one["unit"]) for one in recorder.events("progress")]
    assert progress == [(done, len(shards), "shard") for done in range(len(shards) + 1)]
    with Source(source) as read:
        assert result.linears == len(read.packed_linears) == 21
        written = {"llmcbench.json", "config.json", INDEX, *shards}
        copied = {path.name for path in source.iterdir()} - written
        assert {path.name for path in folder.iterdir()} == written | copied
        assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in copied)
    assert "tokenizer.json" in copied
    assert not (output / ".artifact.partial").exists()
    said = tuple(one["message"] for one in recorder.events("log"))
    assert said == result.artifact.notes
    assert ("zero points stored" in said[0]) is (target is GPTQ)


def test_one_file_has_no_index(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "source", "llama", case(PACK, 4, 16, symmetric=True))
    folder, _ = export(tmp_path / "source", AWQ)
    assert not (folder / INDEX).exists()


@pytest.mark.parametrize(
    ("target", "family"),
    [(MODELOPT_AWQ, "llama-wide"), (MODELOPT_FP8, "llama"), (MODELOPT_FP8, "llama-tied")],
    ids=str,
)
def test_what_stays_dense_is_named_to_the_reader_of_modelopts_layouts(
    tmp_path: Path, target: CheckpointFormat, family: str
) -> None:
    source = tmp_path / "source"
    if target is MODELOPT_FP8:
        publish_model(source, tiny_model(family))
    else:
        publish_quantized(source, family, case(PACK, 4, 64, symmetric=True))
    with Source(source) as read:
        linears = {name for name, module in read.model.named_modules() if isinstance(module, nn.Linear)}
        dense = sorted(name for name in linears if ".layers." not in name)
    folder, descriptor = export(source, target)
    said = json.loads((folder / "hf_quant_config.json").read_text(encoding="utf-8"))
    scheme = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert said["producer"] == {"name": "llmcbench"}
    assert sorted(said["quantization"]["exclude_modules"]) == sorted(scheme["ignore"]) == dense == ["lm_head"]
    stored = {name for path in folder.glob("*.safetensors") for name in load_file(path)}
    assert {name.removesuffix(".weight_scale") for name in stored if name.endswith("scale")} >= linears - {*dense}
    if target is MODELOPT_FP8:
        assert said["quantization"] == {
            "quant_algo": "FP8",
            "kv_cache_quant_algo": None,
            "exclude_modules": ["lm_head"],
        }
        assert scheme["quant_method"] == "modelopt"
        assert descriptor.quantization is not None
        bits = descriptor.quantization.weight_bits, descriptor.quantization.activation_bits
        assert bits == (8, 8)
        assert descriptor.exported is not None
        assert (descriptor.exported.source_format, descriptor.exported.exact) == (DENSE, False)
        assert descriptor.format is target
        assert any("no scales of inputs" in note for note in descriptor.notes)
