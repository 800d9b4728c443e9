"""What a result says of zeros and quantized values that bring no speed to the library that served them."""

from types import SimpleNamespace
from typing import Any

import pytest

from harness.backends.base import served_as_dense
from harness.backends.in_process import unpacked_notes
from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, Quantization, Sparsity

DENSE = CheckpointDescriptor(
    format=CheckpointFormat.DENSE,
    dtype=Dtype.BFLOAT16,
    architecture="LlamaForCausalLM",
    parameter_count=1,
    source="dir:x",
    files={},
)
SPARSE = DENSE.model_copy(update={"sparsity": Sparsity(pattern="2:4", target=0.5, measured=0.5)})
PACKED = DENSE.model_copy(
    update={
        "format": CheckpointFormat.GPTQ,
        "quantization": Quantization(weight_bits=4, activation_bits=16, group_size=128),
    }
)
SAID = "served as dense weights: the gptq quantization brings no speed here"


@pytest.mark.parametrize(
    ("descriptor", "note", "why", "said"),
    [
        (DENSE, None, "it is asked for", ()),
        (SPARSE, None, None, ("served as dense weights: 50.0% zeros (2:4) bring no speed here",)),
        (PACKED, None, None, (SAID,)),
        (PACKED, "unpacked to bfloat16", None, (f"{SAID} (unpacked to bfloat16)",)),
        (PACKED, None, "it is asked for", (f"{SAID}; it is asked for",)),
        (PACKED, "unpacked", "it is asked for", (f"{SAID} (unpacked); it is asked for",)),
    ],
)
def test_what_brings_no_speed_is_said_with_why(
    descriptor: CheckpointDescriptor, note: str | None, why: str | None, said: tuple[str, ...]
) -> None:
    loaded: Any = SimpleNamespace(descriptor=descriptor, quantization_note=note)
    assert unpacked_notes(loaded, why) == said
    assert served_as_dense(PACKED) == (), "a library that reads the layout says nothing of it"
