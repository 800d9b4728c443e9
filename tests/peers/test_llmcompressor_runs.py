"""llm-compressor behind the contract: what it leaves is a checkpoint that the rest of the project can read."""

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("llmcompressor", reason="runs in the llmcompressor image's environment")

import llmcompressor
from llmcompressor.modifiers.transform.awq import AWQModifier
from peer_cases import all_cases

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.contract import CheckpointFormat, Reason
from harness.errors import Unsupported, WorkerError
from harness.methods.awq.scale_search import candidate_scales
from tests.support.tiny_checkpoints import LAYERS, tiny_model


def weights_of(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def linear_names(family):
    return {f"{linear.name}.weight" for linear in linears_of(decoder_blocks(tiny_model(family)))}


@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
@pytest.mark.parametrize("family", ["llama-tied", "glm", "opt-post-norm"])
def test_a_pruned_checkpoint_has_zeros_in_the_blocks_and_its_parent_elsewhere(tmp_path, compress, family, method):
    result, artifact, _ = compress(f"llmcompressor-{method}", "2:4", family)
    before, after = weights_of(tmp_path / family), weights_of(artifact)
    assert before.keys() == after.keys()
    for name, weight in after.items():
        if name in linear_names(family):
            zeros = (weight.reshape(weight.shape[0], -1, 4) == 0).sum(-1)
            assert bool((zeros >= 2).all()), name
        else:
            assert torch.equal(weight, before[name]), name
    assert result.artifact.format is CheckpointFormat.DENSE
    assert result.artifact.sparsity.pattern == "2:4"
    assert result.artifact.sparsity.measured == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize(
    ("method", "setting", "options", "farthest"),
    [
        ("gptq", "W8A16", {}, 0.02),
        ("gptq", "W4A16g16", {"actorder": "none", "symmetric": False}, 0.3),
        ("gptq", "W8A8", {}, 0.05),
        ("awq", "W4A16g16", {}, 0.3),
        ("awq", "W8A16g16", {"duo_scaling": False, "symmetric": True}, 0.02),
        ("smoothquant", "W8A8", {"smoothing_strength": 0.8}, 0.05),
    ],
)
def test_a_quantized_checkpoint_computes_nearly_what_its_parent_does(
    compress, drift, method, setting, options, farthest
):
    result, artifact, _ = compress(f"llmcompressor-{method}", setting, **options)
    assert 0 < drift(artifact) < farthest
    expected = CheckpointFormat.INT_QUANTIZED if setting == "W8A8" else CheckpointFormat.PACK_QUANTIZED
    assert result.artifact.format is expected
    assert result.artifact.quantization.symmetric == result.artifact.options.get("symmetric", True)


@pytest.mark.parametrize("family", ["llama-tied", "mistral-sliding", "qwen2", "qwen3", "glm4", "opt"])
def test_every_architecture_that_the_image_lists_can_be_quantized(compress, drift, family):
    _, artifact, _ = compress("llmcompressor-gptq", "W8A16", family)
    assert 0 < drift(artifact, family) < 0.05


def test_floats_are_stored_in_the_parents_dtype_and_its_tokenizer_is_kept(tmp_path, compress):
    _, artifact, _ = compress("llmcompressor-gptq", "W4A16g16")
    floats = {tensor.dtype for tensor in weights_of(artifact).values() if tensor.is_floating_point()}
    assert floats == {torch.bfloat16}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (artifact / name).read_bytes() == (tmp_path / "llama" / name).read_bytes()


def test_the_same_request_gives_the_same_files_and_the_recipe_is_among_them(compress):
    first, second = (compress("llmcompressor-gptq", "W4A16g16") for _ in range(2))
    assert first[0].artifact.files == second[0].artifact.files
    assert "GPTQModifier" in (first[1] / "recipe.yaml").read_text(encoding="utf-8")


def test_progress_reaches_the_last_layer_and_the_notes_name_the_version(compress):
    result, _, events = compress("llmcompressor-wanda", "50%")
    done = [event["done"] for event in events if event["event"] == "progress"]
    assert done == sorted(done)
    assert done[-1] == LAYERS
    assert any(note.startswith("llmcompressor 0.") for note in result.artifact.notes)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a torch without accelerator")
def test_awq_without_a_gpu_says_that_page_locking_was_left_out_and_restores_the_library(compress):
    from llmcompressor.pipelines.cache import IntermediatesCache

    pinning = IntermediatesCache.pin_memory
    result, _, _ = compress("llmcompressor-awq", "W4A16g16")
    assert sum("page-locking" in note for note in result.artifact.notes) == 1
    assert IntermediatesCache.pin_memory is pinning


@pytest.mark.parametrize(("method", "setting"), [("awq", "W4A16g16"), ("smoothquant", "W8A8")])
@pytest.mark.parametrize("family", ["glm", "opt"])
def test_an_architecture_whose_layers_the_library_cannot_map_is_unsupported(compress, family, method, setting):
    with pytest.raises(Unsupported, match="does not know which norms") as refused:
        compress(f"llmcompressor-{method}", setting, family)
    assert refused.value.reason is Reason.ARCHITECTURE


def test_what_the_library_raises_becomes_one_sentence(compress, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no such layer\nsecond line")

    monkeypatch.setattr("llmcompressor.oneshot", broken)
    with pytest.raises(WorkerError, match=r"^llmcompressor failed with ValueError: no such layer$"):
        compress("llmcompressor-wanda", "50%")


def test_a_warning_that_something_failed_reaches_the_notes(compress, monkeypatch):
    from loguru import logger

    def warn(*_, **__):
        logger.warning("Failed to invert hessian due to numerical instability.")
        logger.warning("Only a remark.")

    monkeypatch.setattr("llmcompressor.oneshot", warn)
    result, _, events = compress("llmcompressor-wanda", "50%")
    warned = [note for note in result.artifact.notes if "warned" in note]
    assert warned == ["llmcompressor warned: Failed to invert hessian due to numerical instability."]
    assert any("Only a remark." in event.get("message", "") for event in events)


def test_awq_tries_the_exponents_of_our_side_of_the_equal_case_and_1():
    case = next(case for case in all_cases(64, 4) if (case.name, case.peer) == ("awq, equal", "llmcompressor"))
    options = case.peer_options
    search = AWQModifier(duo_scaling=options["duo_scaling"], n_grid=options["n_grid"])
    theirs = [ratio for ratio, _ in search._get_grid_search_params()]
    magnitude = torch.tensor([1.0, 4.0])
    ours = candidate_scales(magnitude, case.options["n_grid"])
    assert theirs[-1] == 1
    torch.testing.assert_close(ours[:, 1] / ours[:, 0], torch.tensor([4**ratio for ratio in theirs[:-1]]))


def test_awq_feeds_each_block_with_what_the_uncompressed_ones_put_out(compress, monkeypatch):
    library = llmcompressor.oneshot
    inputs = {"dense": [], "calibration": [], "compressed": []}

    def watched(*, model, dataset, **others):
        for name, run in (
            ("dense", lambda: run_all(model, dataset)),
            ("calibration", lambda: library(model=model, dataset=dataset, **others)),
            ("compressed", lambda: run_all(model, dataset)),
        ):
            hook = model.model.layers[-1].register_forward_pre_hook(note_inputs(inputs[name]), with_kwargs=True)
            run()
            hook.remove()

    monkeypatch.setattr("llmcompressor.oneshot", watched)
    compress("llmcompressor-awq", "W4A16g16", batch_size=4, duo_scaling=False)
    assert inputs["dense"]
    assert len(inputs["calibration"]) >= len(inputs["dense"])
    for calibrated, dense in zip(inputs["calibration"], inputs["dense"], strict=False):
        assert (calibrated - dense).norm() < 1e-5 * dense.norm()
    for compressed, dense in zip(inputs["compressed"], inputs["dense"], strict=True):
        assert (compressed - dense).norm() > 1e-2 * dense.norm()


def run_all(model, batches):
    with torch.no_grad():
        for batch in batches:
            model(**batch)


def note_inputs(seen):
    def hook(module, arguments, keywords):
        seen.append(arguments[0] if arguments else keywords["hidden_states"])

    return hook
