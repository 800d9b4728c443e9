"""The layouts of quantized weights, against themselves and against plain loops over the documented bit positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import CheckpointFormat, Quantization, Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.quantization import layouts
from harness.quantization.bits import pack_bits, unpack_bits
from harness.quantization.layouts.scheme import Scheme
from harness.quantization.weight import QuantizedWeight
from tests.support.quantized_weights import AWQ, CASES, GPTQ, INT, PACK, case, random_weight

MODELOPT = CheckpointFormat.MODELOPT_AWQ
BITS_OF = {PACK: (2, 3, 4, 5, 6, 7, 8), INT: (8,), GPTQ: (2, 3, 4, 8), AWQ: (4,), MODELOPT: (4,)}
EVERY_CASE = (*CASES, case(MODELOPT, 4, 64, True))


def scheme_of(checkpoint_format: CheckpointFormat, weight: QuantizedWeight) -> Scheme:
    """By way of config.json, as a reader gets it."""
    act_order = weight.group_of is not None
    quantization = Quantization(
        weight_bits=weight.bits,
        activation_bits=8 if checkpoint_format is INT else 16,
        group_size=weight.group_size,
        symmetric=weight.symmetric,
    )
    config = layouts.quantization_config(checkpoint_format, quantization, ignored=["lm_head"], act_order=act_order)
    return layouts.read_scheme(checkpoint_format, config)


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 100), st.integers(0, 99))
def test_packed_codes_are_one_long_number_in_each_row(bits, rows, count, seed):
    codes = torch.randint(0, 2**bits, (rows, count), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    words = pack_bits(codes, bits)
    assert words.shape == (rows, -(-count * bits // 32))
    for row, packed in zip(codes.tolist(), words.tolist(), strict=True):
        number = sum(code << (bits * place) for place, code in enumerate(row))
        assert sum((word % 2**32) << (32 * place) for place, word in enumerate(packed)) == number
    assert torch.equal(unpack_bits(words, bits, count), codes)


@st.composite
def _weights(draw):
    checkpoint_format = draw(st.sampled_from(sorted(BITS_OF)))
    bits = draw(st.sampled_from(BITS_OF[checkpoint_format]))
    step = {PACK: 1, INT: 1, GPTQ: 32, AWQ: 8, MODELOPT: 2}[checkpoint_format]
    group_size = draw(st.sampled_from({INT: (0,), MODELOPT: (64, 128)}.get(checkpoint_format, (0, 8, 16, 32))))
    unit = 32 if checkpoint_format is GPTQ else group_size or step
    weight = random_weight(
        rows=step * draw(st.integers(1, 3)),
        inputs=unit * draw(st.integers(2 if checkpoint_format is MODELOPT else 1, 4)),
        bits=bits,
        group_size=group_size,
        symmetric=checkpoint_format in (INT, MODELOPT) or draw(st.booleans()),
        act_order=checkpoint_format is GPTQ and draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )
    return checkpoint_format, weight


@settings(deadline=None)
@given(_weights())
def test_what_is_encoded_is_decoded_bit_for_bit(drawn):
    checkpoint_format, weight = drawn
    tensors = layouts.encode(checkpoint_format, weight, torch.bfloat16)
    assert tensors.keys() <= layouts.suffixes(checkpoint_format)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    decoded = layouts.decode(checkpoint_format, tensors, scheme_of(checkpoint_format, weight))
    assert torch.equal(decoded.codes, weight.codes)
    assert torch.equal(decoded.scale, weight.scale)
    assert torch.equal(decoded.zero, weight.zero)
    assert torch.equal(decoded.dequantize(torch.float32), weight.dequantize(torch.float32))
    assert (decoded.bits, decoded.group_size) == (weight.bits, weight.group_size)
    if checkpoint_format is not AWQ:
        assert decoded.symmetric is weight.symmetric


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_has_the_code_of_an_input_at_its_bits_down_the_column_of_its_row(bits, symmetric):
    weight = random_weight(64, 96, bits, 32, symmetric=symmetric, act_order=True)
    stored = layouts.encode(GPTQ, weight, torch.float16)

    def field(words: list[int], place: int) -> int:
        return sum((word % 2**32) << (32 * index) for index, word in enumerate(words)) >> (bits * place) & (2**bits - 1)

    columns = stored["qweight"].T.tolist()
    for row in range(64):
        for column in range(96):
            assert field(columns[row], column) == weight.codes[row, column]
    one_less = 1 if symmetric else 0
    for group, words in enumerate(stored["qzeros"].tolist()):
        for row in range(64):
            assert field(words, row) == weight.zero[row, group] - one_less
    assert stored["scales"].shape == (3, 64)
    assert stored["scales"].dtype is torch.float16
    assert torch.equal(stored["g_idx"], weight.group_of)


def test_gptq_without_act_order_groups_consecutive_inputs():
    stored = layouts.encode(GPTQ, random_weight(32, 64, 4, 16), torch.bfloat16)
    assert stored["g_idx"].tolist() == [input_ // 16 for input_ in range(64)]
    assert stored["g_idx"].dtype is torch.int32


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq_zeros_of_0_that_other_writers_store_less_one_are_read(bits):
    """Such writers take 1 from every field by one subtraction a word, so that a field of 0 borrows from the next."""
    weight = random_weight(32, 32, bits, symmetric=False)
    stored = layouts.encode(GPTQ, weight, torch.bfloat16)
    ones = sum(1 << shift for shift in range(0, 32, bits))
    less_one = [[(word - ones) % 2**32 for word in row] for row in stored["qzeros"].tolist()]
    signed = [[word - 2**32 if word >= 2**31 else word for word in row] for row in less_one]
    config = {"quant_method": "gptq", "bits": bits, "group_size": -1, "sym": False, "checkpoint_format": "gptq"}
    scheme = layouts.read_scheme(GPTQ, config)
    tensors = stored | {"qzeros": torch.tensor(signed, dtype=torch.int32)}
    assert 0 in weight.zero
    assert torch.equal(layouts.decode(GPTQ, tensors, scheme).zero, weight.zero)


def test_awq_has_eight_rows_of_an_input_in_a_word_the_even_ones_first():
    weight = random_weight(16, 24, 4, 8, symmetric=False)
    stored = layouts.encode(AWQ, weight, torch.float16)
    places = {row: 4 * place for place, row in enumerate((0, 2, 4, 6, 1, 3, 5, 7))}
    for name, values in (("qweight", weight.codes), ("qzeros", weight.zero)):
        words = stored[name].tolist()
        for column in range(values.shape[1]):
            for row in range(16):
                assert (words[column][row // 8] >> places[row % 8]) & 15 == values[row, column]
    assert torch.equal(stored["scales"], weight.scale.to(torch.float16).T)


@pytest.mark.parametrize(
    ("checkpoint_format", "weight", "reason", "words"),
    [
        (AWQ, random_weight(8, 8, 8), Reason.SETTING, "weights of 8 bits"),
        (AWQ, random_weight(12, 8, 4), Reason.SHAPE, "output sizes that are multiples of 8, and this linear's is 12"),
        (AWQ, random_weight(8, 8, 4, 4, act_order=True), Reason.SETTING, "order of the activations"),
        (GPTQ, random_weight(32, 32, 5), Reason.SETTING, "weights of 5 bits"),
        (GPTQ, random_weight(32, 20, 4), Reason.SHAPE, "input sizes that are multiples of 8, and this linear's is 20"),
        (GPTQ, random_weight(8, 32, 3), Reason.SHAPE, "output sizes that are multiples of 32"),
        (INT, random_weight(8, 8, 4), Reason.SETTING, "weights of 4 bits"),
        (INT, random_weight(8, 8, 8, 4), Reason.SETTING, "groups within a row"),
        (INT, random_weight(8, 8, 8, symmetric=False), Reason.SETTING, "asymmetric weights"),
        (MODELOPT, random_weight(8, 64, 8, 64), Reason.SETTING, "weights of 8 bits"),
        (MODELOPT, random_weight(7, 64, 4, 64), Reason.SHAPE, "output sizes that are multiples of 2, and this linear"),
        (MODELOPT, random_weight(8, 64, 4, 32), Reason.SETTING, "groups of 64 or 128 inputs, not groups of 32"),
        (MODELOPT, random_weight(8, 64, 4, 64, symmetric=False), Reason.SETTING, "these have zero points"),
        (MODELOPT, random_weight(8, 64, 4, 64, act_order=True), Reason.SETTING, "order of the activations"),
        (PACK, random_weight(8, 8, 1), Reason.SETTING, "weights of 1 bits"),
        (PACK, random_weight(8, 8, 4, 4, act_order=True), Reason.SETTING, "order of the activations"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_by_name(checkpoint_format, weight, reason, words):
    with pytest.raises(Unsupported, match=words) as refusal:
        layouts.encode(checkpoint_format, weight, torch.bfloat16)
    assert refusal.value.reason is reason
    assert refusal.value.message.startswith(checkpoint_format.value)


@pytest.mark.parametrize("checkpoint_format", [PACK, GPTQ, AWQ])
def test_groups_that_do_not_divide_the_inputs_are_refused(checkpoint_format):
    whole = random_weight(32, 32, 4)
    uneven = QuantizedWeight(whole.codes, whole.scale.repeat(1, 3), whole.zero.repeat(1, 3), 4, symmetric=True)
    with pytest.raises(Unsupported, match="3 groups do not divide 32 inputs"):
        layouts.encode(checkpoint_format, uneven, torch.bfloat16)


def test_scales_that_the_dtype_cannot_hold_are_a_fault():
    weight = random_weight(8, 8, 4)
    finer = QuantizedWeight(weight.codes, weight.scale.float() + 1e-6, weight.zero, 4, symmetric=True)
    with pytest.raises(ValueError, match=r"were not rounded to torch\.bfloat16"):
        layouts.encode(PACK, finer, torch.bfloat16)


def test_a_dense_checkpoint_has_no_layout():
    with pytest.raises(ValueError, match="dense"):
        layouts.suffixes(CheckpointFormat.DENSE)


@pytest.mark.parametrize(
    ("checkpoint_format", "quantization", "words"),
    [
        (AWQ, Quantization(weight_bits=4, activation_bits=8), "awq describes weights only"),
        (GPTQ, Quantization(weight_bits=4, activation_bits=8), "gptq describes weights only"),
        (MODELOPT, Quantization(weight_bits=4, activation_bits=8, group_size=64), "describes weights only"),
        (INT, Quantization(weight_bits=8, activation_bits=16), "activations of 8 bits, not 16"),
        (PACK, Quantization(weight_bits=4, activation_bits=4, activations_symmetric=False), "asymmetric activations"),
        (PACK, Quantization(weight_bits=4, activation_bits=16, attention_bits=4), "queries, keys and values"),
    ],
)
def test_a_quantization_that_a_config_has_no_place_for_is_refused(checkpoint_format, quantization, words):
    with pytest.raises(Unsupported, match=words) as refusal:
        layouts.quantization_config(checkpoint_format, quantization, ignored=[])
    assert refusal.value.reason is Reason.SETTING


@pytest.mark.parametrize("checkpoint_format", [PACK, AWQ, MODELOPT])
def test_a_config_without_a_place_for_act_order_refuses_it(checkpoint_format):
    quantization = Quantization(weight_bits=4, activation_bits=16, group_size=64)
    with pytest.raises(Unsupported, match="order of the activations"):
        layouts.quantization_config(checkpoint_format, quantization, ignored=[], act_order=True)


@pytest.mark.parametrize("stored", EVERY_CASE, ids=str)
def test_the_config_states_what_the_descriptor_does(stored):
    config = layouts.quantization_config(stored.format, stored.quantization, ignored=["model.decoder.project_in"])
    scheme = layouts.check_config(stored.format, stored.quantization, {"quantization_config": config})
    assert scheme is not None
    assert (scheme.bits, scheme.group_size) == (stored.quantization.weight_bits, stored.quantization.group_size)
    assert scheme.activation_bits == stored.quantization.activation_bits
    assert "project_in" in str(config)
    assert stored.format is GPTQ or "lm_head" in (config.get("ignore") or config["modules_to_not_convert"])


@pytest.mark.parametrize(("stored", "bits"), [(case(PACK, 4, 0, True), None), (case(INT, 8, 0, True, 8), 8)])
def test_compressed_tensors_describes_activations_where_they_are_quantized_alone(stored, bits):
    config = layouts.quantization_config(stored.format, stored.quantization, ignored=[])
    activations = config["config_groups"]["group_0"]["input_activations"]
    assert (activations and activations["num_bits"]) == bits


def test_gptq_says_which_way_its_zeros_are_stored_and_which_linears_it_leaves_out():
    quantization = case(GPTQ, 4, 0, False).quantization
    config = layouts.quantization_config(GPTQ, quantization, ignored=["lm_head", "model.decoder.project_in"])
    assert config["checkpoint_format"] == "gptq_v2"
    assert config["group_size"] == -1
    assert list(config["dynamic"]) == [r"-:model\.decoder\.project_in$"]
    symmetric = layouts.quantization_config(GPTQ, case(GPTQ, 4, 64, True).quantization, ignored=[], act_order=True)
    assert symmetric["checkpoint_format"] == "gptq"
    assert (symmetric["group_size"], symmetric["desc_act"]) == (64, True)


def test_a_weight_with_act_order_is_not_read_where_the_config_denies_it():
    stored = layouts.encode(GPTQ, random_weight(32, 32, 4, 8, act_order=True), torch.bfloat16)
    with pytest.raises(BadCheckpoint, match="desc_act is false"):
        layouts.decode(GPTQ, stored, Scheme(bits=4, symmetric=True, group_size=8, zeros_less_one=True))


@pytest.mark.parametrize("stored", EVERY_CASE, ids=str)
def test_tensors_of_other_sizes_than_their_scales_are_refused(stored):
    weight = random_weight(
        32,
        128,
        stored.quantization.weight_bits,
        stored.quantization.group_size,
        symmetric=stored.quantization.symmetric,
    )
    tensors = layouts.encode(stored.format, weight, torch.bfloat16)
    marked = "weight" if stored.format in (INT, MODELOPT) else "weight_packed" if stored.format is PACK else "qweight"
    narrower = tensors | {marked: tensors[marked][:-1, :-1]}
    with pytest.raises(BadCheckpoint, match="do not fit together"):
        layouts.decode(stored.format, narrower, scheme_of(stored.format, weight))
