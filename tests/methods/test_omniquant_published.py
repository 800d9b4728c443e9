"""The authors' settings as their scripts have them, and which model gets whose."""

from types import SimpleNamespace

import pytest

from harness.contract import Setting
from harness.methods.omniquant.published import Family, published

LLAMA_1 = ("LlamaForCausalLM", SimpleNamespace(max_position_embeddings=2048, hidden_size=4096))
LLAMA_1_30B = ("LlamaForCausalLM", SimpleNamespace(max_position_embeddings=2048, hidden_size=6656))
LLAMA_2 = ("LlamaForCausalLM", SimpleNamespace(max_position_embeddings=4096, hidden_size=4096))
OPT = ("OPTForCausalLM", SimpleNamespace(max_position_embeddings=2048, hidden_size=4096))
OPT_66B = ("OPTForCausalLM", SimpleNamespace(max_position_embeddings=2048, hidden_size=9216))
MISTRAL = ("MistralForCausalLM", SimpleNamespace(max_position_embeddings=32768, hidden_size=4096))


@pytest.mark.parametrize(
    ("model", "setting", "epochs", "let", "let_lr", "alpha", "aug_loss"),
    [
        (LLAMA_2, "W4A16g128", 20, False, 5e-3, 0.5, False),
        (LLAMA_2, "W3A16", 20, False, 5e-3, 0.5, False),
        (LLAMA_2, "W2A16g128", 40, False, 5e-3, 0.5, True),
        (LLAMA_1, "W2A16", 40, False, 5e-3, 0.5, True),
        (OPT, "W2A16g128", 40, True, 5e-3, 0.5, False),
        (OPT, "W4A16g128", 20, True, 5e-3, 0.5, False),
        (LLAMA_2, "W4A4", 20, True, 1e-3, 0.75, False),
        (LLAMA_1, "W4A4", 20, True, 5e-3, 0.5, True),
        (LLAMA_1_30B, "W4A4", 20, True, 5e-3, 0.75, True),
        (OPT_66B, "W3A16", 20, True, 5e-3, 0.3, False),
        (OPT_66B, "W3A16g128", 20, True, 5e-3, 0.5, False),
        (OPT_66B, "W4A16", 20, True, 5e-3, 0.5, False),
        (OPT, "W3A16", 20, True, 5e-3, 0.5, False),
        (OPT, "W4A4", 20, True, 5e-3, 0.75, False),
        (LLAMA_2, "W6A6", 20, True, 5e-3, 0.5, False),
        (OPT, "W6A6", 20, True, 5e-3, 0.5, False),
    ],
)
def test_a_script_of_the_authors_is_followed(model, setting, epochs, let, let_lr, alpha, aug_loss):
    found = published(Setting.parse(setting), *model)
    assert (found.epochs, found.let, found.let_lr) == (epochs, let, let_lr)
    assert (found.alpha, found.aug_loss) == (alpha, aug_loss)


@pytest.mark.parametrize(("setting", "full"), [("W8A8", True), ("W8A16", True), ("W6A6", False), ("W4A16", False)])
def test_eight_bits_are_trained_in_full_precision(setting, full):
    assert published(Setting.parse(setting), *LLAMA_2).full_precision is full


def test_a_family_without_scripts_gets_the_values_of_llama_2_and_says_so():
    found = published(Setting.parse("W4A4"), *MISTRAL)
    assert found.family is Family.LLAMA_2
    assert "MistralForCausalLM" in found.reason
