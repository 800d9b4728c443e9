"""What the support tables say of a CPU, against what each backend does there with the zoo's trained models.

For vLLM this takes minutes and runs in the environment of `images/vllm/locks/cpu.txt`; elsewhere it is skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.backends import run
from harness.checkpoint import open_checkpoint
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    CheckpointDescriptor,
    CheckpointFormat,
    Device,
    DeviceKind,
    LayerWidths,
    Quantization,
)
from harness.errors import Unsupported
from orchestrator.plan.support import TABLE_NAME, Answer, Checkpoint, Served, judge, read_table
from tests.support.small_checkpoints import Recorder
from tests.support.stored_zoo import Stored, quantize, simulate, stored, with_a_narrow_layer, with_zeros
from tests.support.zoo import ZOO, zoo_checkpoint

IMAGES = Path(__file__).parents[2] / "images"
PACK, INT = CheckpointFormat.PACK_QUANTIZED, CheckpointFormat.INT_QUANTIZED
GPTQ, AWQ = CheckpointFormat.GPTQ, CheckpointFormat.AWQ
W4A16 = Quantization(weight_bits=4, activation_bits=16)
BACKENDS = (
    "transformers",
    "native",
    pytest.param(
        "vllm",
        marks=pytest.mark.skipif(
            find_spec("vllm") is None, reason="vllm is installed in the environment of the image `vllm` alone"
        ),
    ),
    pytest.param(
        "llama-cpp",
        marks=pytest.mark.skipif(
            find_spec("xllamacpp") is None, reason="llama.cpp is installed in the environment of its image alone"
        ),
    ),
)
LAYOUTS = (
    stored(PACK, 2, symmetric=True),
    stored(PACK, 3, symmetric=True),
    stored(PACK, 4, symmetric=True),
    stored(PACK, 4, symmetric=False),
    stored(PACK, 8, symmetric=True),
    stored(INT, 8, symmetric=True, activation_bits=8),
    stored(GPTQ, 3, symmetric=True),
    stored(GPTQ, 4, symmetric=True),
    stored(GPTQ, 4, symmetric=False),
    stored(GPTQ, 4, symmetric=True, act_order=True),
    stored(GPTQ, 8, symmetric=True),
    stored(AWQ, 4, symmetric=False),
)


@dataclass(frozen=True)
class Made:
    """A checkpoint of the zoo in one form; `widths` and `act_order` are what its descriptor does not say."""

    name: str
    make: Callable[[Path, Path], Path] | None = None
    model: str = "llama-gqa"
    widths: LayerWidths = LayerWidths.UNIFORM
    act_order: bool = False

    def __str__(self) -> str:
        return self.name


def in_layout(how: Stored) -> Made:
    return Made(str(how), lambda dense, folder: quantize(dense, folder, how), act_order=how.act_order)


CELLS = (
    *(Made(f"dense-{model}", model=model) for model in ZOO),
    *(in_layout(how) for how in LAYOUTS),
    Made("two-of-four-zeros", with_zeros),
    Made(
        "simulated-w4", lambda dense, folder: simulate(dense, folder, Quantization(weight_bits=4, activation_bits=16))
    ),
    Made("layers-of-two-widths", with_a_narrow_layer, widths=LayerWidths.PER_LAYER),
)


@pytest.fixture(scope="module", params=CELLS, ids=str)
def cell(request: pytest.FixtureRequest) -> Made:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(cell: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once for all backends."""
    folder = tmp_path_factory.mktemp("cell")
    zoo_checkpoint(cell.model, folder / "dense")
    return folder / "dense" if cell.make is None else cell.make(folder / "dense", folder / "made")


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_does_what_its_support_table_says(backend: str, cell: Made, checkpoint: Path, tmp_path: Path) -> None:
    said = judge(read_table(IMAGES / backend / TABLE_NAME), known(open_checkpoint(checkpoint), cell))
    expected = (Answer.AS_DENSE if said.as_dense else Answer.YES) if isinstance(said, Served) else said.reason
    assert what_happens(backend, checkpoint, tmp_path) == expected


def known(descriptor: CheckpointDescriptor, cell: Made) -> Checkpoint:
    dense = Checkpoint.dense(architecture=descriptor.architecture, dtype=descriptor.dtype)
    quantization = descriptor.quantization
    return dense.model_copy(
        update={
            "device": DeviceKind.CPU,
            "format": descriptor.format,
            "zeros": descriptor.sparsity is not None,
            "layer_widths": cell.widths,
            "activation_order": cell.act_order,
        }
        | (quantization.model_dump(include=dense.model_fields_set) if quantization else {})
    )


def what_happens(backend: str, checkpoint: Path, folder: Path) -> object:
    """The answer that a short benchmark comes to; for a refusal, its reason."""
    request = BenchmarkRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(folder),
        parameters=BenchmarkParameters(
            backend=backend, prompt_tokens=8, generate_tokens=4, batch_sizes=(1,), repeats=2
        ),
    )
    try:
        result = run(request, Recorder().reporter)
    except Unsupported as refusal:
        return refusal.reason
    assert all(speed.prefill_tokens_per_second > 0 for speed in result.speeds)
    return Answer.AS_DENSE if any("dense weights" in note for note in result.notes) else Answer.YES
