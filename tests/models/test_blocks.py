import itertools

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from harness.architectures.blocks import KNOWN_ARCHITECTURES, decoder_blocks, linears_of
from harness.contract import Reason
from harness.errors import Unsupported
from tests.support.tiny_checkpoints import FAMILIES, LAYERS, tiny_model, tiny_tokens


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def test_every_linear_of_the_decoder_is_found_and_no_other(model):
    found = {linear.name: linear.module for linear in linears_of(decoder_blocks(model))}
    inside = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".layers." in name
    }
    assert found == inside
    assert len(decoder_blocks(model)) == LAYERS


def test_the_linears_of_a_group_read_one_tensor_in_the_order_of_the_groups(model):
    blocks = decoder_blocks(model)
    seen = []
    for linear in linears_of(blocks):
        linear.module.register_forward_pre_hook(
            lambda module, arguments, name=linear.name: seen.append((name, arguments[0].clone()))
        )
    model(tiny_tokens(2, 7))
    inputs = dict(seen)
    order = [name for name, _ in seen]
    assert len(blocks) == LAYERS
    for block in blocks:
        reached = [[order.index(linear.name) for linear in group.linears] for group in block.groups]
        assert all(max(before) < min(after) for before, after in itertools.pairwise(reached))
        for group in block.groups:
            first, *others = [inputs[linear.name] for linear in group.linears]
            assert all(torch.equal(first, other) for other in others)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16, n_positions=8))
    with pytest.raises(Unsupported, match="GPT2LMHeadModel") as refusal:
        decoder_blocks(model)
    assert refusal.value.reason is Reason.ARCHITECTURE
    assert all(name in refusal.value.hint for name in KNOWN_ARCHITECTURES)


def test_a_block_with_a_linear_that_its_family_does_not_have_is_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp.router = nn.Linear(32, 4)
    with pytest.raises(Unsupported, match=r"mlp\.router") as refusal:
        decoder_blocks(model)
    assert refusal.value.reason is Reason.ARCHITECTURE
