import pytest
import torch

from harness.architectures.blocks import decoder_blocks
from harness.errors import BadCheckpoint, WorkerError
from harness.methods.numerics.hessian import Hessian
from harness.methods.skeleton.sequential import observe
from harness.methods.skeleton.stream import open_stream
from tests.support.tiny_checkpoints import FAMILIES, tiny_model, tiny_tokens

CPU = torch.device("cpu")
TOKENS = tiny_tokens(7, 11)


def states_between_blocks(model, tokens):
    """What the model itself feeds each block, and what the last block returns."""
    seen = []
    handles = [
        block.module.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        for block in decoder_blocks(model)
    ]
    last = decoder_blocks(model)[-1].module
    handles.append(last.register_forward_hook(lambda module, arguments, output: seen.append(output)))
    model(tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_carries_what_the_model_itself_would_pass_between_blocks(family, batch_size):
    model = tiny_model(family)
    blocks = decoder_blocks(model)
    expected = states_between_blocks(model, TOKENS)
    stream = open_stream(model, blocks, TOKENS, batch_size=batch_size, device=CPU)
    assert torch.allclose(torch.cat(stream.hidden), expected[0], atol=1e-6)
    for block in blocks:
        stream.advance(block)
        assert torch.allclose(torch.cat(stream.hidden), expected[block.index + 1], atol=1e-5)


def test_a_sliding_window_changes_what_later_blocks_see():
    """Without it, the mixed family above would prove nothing about masks that differ between blocks."""
    mixed, full = tiny_model("qwen2-mixed"), tiny_model("qwen2")
    full.load_state_dict(mixed.state_dict())
    assert not torch.allclose(mixed(TOKENS).logits, full(TOKENS).logits, atol=1e-3)


def test_opening_a_stream_leaves_the_model_as_it_was():
    model = tiny_model("llama")
    before = model(TOKENS).logits
    open_stream(model, decoder_blocks(model), TOKENS, batch_size=2, device=CPU)
    assert torch.equal(model(TOKENS).logits, before)


def test_a_copy_of_a_stream_stays_where_it_was_made():
    model = tiny_model("opt")
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, TOKENS, batch_size=4, device=CPU)
    start = torch.cat(stream.hidden)
    other = stream.copy()
    stream.advance(blocks[0])
    assert torch.equal(torch.cat(other.hidden), start)
    assert not torch.equal(torch.cat(stream.hidden), start)


@pytest.mark.parametrize("family", ["llama", "opt", "glm4"])
def test_every_group_is_observed_on_every_token_of_every_batch(family):
    model = tiny_model(family)
    (block, *_) = decoder_blocks(model)
    inputs = {}

    def remember(module, arguments):
        inputs[module] = arguments[0].flatten(0, -2).double()

    handles = [group.linears[0].module.register_forward_pre_hook(remember) for group in block.groups]
    model(TOKENS)
    for handle in handles:
        handle.remove()
    for batch_size in (1, 3):
        stream = open_stream(model, decoder_blocks(model), TOKENS, batch_size=batch_size, device=CPU)
        statistics = observe(stream, block, block.groups, lambda group: Hessian(group, CPU))
        for group, hessian in zip(block.groups, statistics, strict=True):
            read = inputs[group.linears[0].module]
            expected = 2 / len(TOKENS) * read.T @ read
            assert torch.allclose(hessian.matrix.double(), expected, atol=1e-4 * float(expected.abs().max()))


def test_observing_leaves_no_hook_behind():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, TOKENS, batch_size=4, device=CPU)
    observe(stream, blocks[0], blocks[0].groups, lambda group: Hessian(group, CPU))
    assert not any(linear.module._forward_pre_hooks for linear in blocks[0].linears)


def test_activations_that_overflow_name_the_block():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    blocks[1].linears[-1].module.weight[0, 0] = float("inf")
    stream = open_stream(model, blocks, TOKENS, batch_size=4, device=CPU)
    stream.advance(blocks[0])
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1 "):
        stream.advance(blocks[1])


def test_a_block_that_returns_something_else_than_hidden_states_is_refused():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, TOKENS, batch_size=4, device=CPU)
    blocks[0].module.forward = lambda hidden, *arguments, **keywords: hidden[0]
    with pytest.raises(WorkerError, match=r"model\.layers\.0"):
        stream.forward(blocks[0], 0)


def test_a_block_that_returns_a_tuple_is_read_as_a_whole_batch():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, TOKENS, batch_size=4, device=CPU)
    expected = stream.forward(blocks[0], 0)
    plain = type(blocks[0].module).forward
    blocks[0].module.forward = lambda *arguments, **keywords: (plain(blocks[0].module, *arguments, **keywords), None)
    assert torch.equal(stream.forward(blocks[0], 0), expected)
