"""What a worker produces for other workers: checkpoints and data sets, each described by its `llmcbench.json`."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from harness.contract.base import Answer, Dtype, Scalar, Sha256, digest_of

DESCRIPTOR_NAME = "llmcbench.json"
ARTIFACT_NAME = "artifact"
"""The folder, in a worker's output, that holds the checkpoint or data set it made."""
RESUME_NAME = "resume"
WHEELS_NAME = "wheels"
"""In a fetch's output: the wheels that it downloaded, each called by its sha256, for later fetches to be handed."""
"""The folder, in a worker's output, that an attempt finds again if an earlier one at the same stage left it."""


PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
"""Of files that can run code when they are loaded."""
CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe", ".jar"})


class FileEntry(Answer):
    size_bytes: NonNegativeInt
    sha256: Sha256


class CheckpointFormat(StrEnum):
    """How the weights of a checkpoint are laid out. `gguf`: in llama.cpp's blocks, see `harness.contract.ggml`."""

    DENSE = "dense"
    PACK_QUANTIZED = "compressed-tensors/pack-quantized"
    INT_QUANTIZED = "compressed-tensors/int-quantized"
    GPTQ = "gptq"
    AWQ = "awq"
    MODELOPT_AWQ = "modelopt/w4a16-awq"
    MODELOPT_FP8 = "modelopt/fp8"
    GGUF = "gguf"


class Sparsity(Answer):
    """Zeros over all the weights of the matrices of the decoder's blocks, those that the method left alone included.

    `pattern` "n:m" says that of every m consecutive inputs of a row n or more are zero; any other word is a name.
    """

    pattern: str
    target: float
    measured: float


class AttentionRounding(StrEnum):
    """Where queries, keys and values are rounded, each with one scale for a token.

    `heads`: as attention reads them, behind the rotary embedding, each head by itself. `projections`: as the
    projections put them out, over all heads.
    """

    HEADS = "heads"
    PROJECTIONS = "projections"


class Quantization(Answer):
    """`simulated`: quantized values in a floating-point layout, so size and speed say nothing about the method.

    `group_size` 0 is a whole row. Activations of fewer than 16 bits are quantized token by token as they occur, at the
    inputs of the quantized linears; with `attention_bits`, also the queries, keys and values (simulated only), where
    `attention_rounding` says. `float8`: E4M3 numbers instead of integers, the weights with one scale a tensor. Of a
    `gguf` checkpoint, bits and group are those of the type that was asked for, which some matrices lie in.
    """

    weight_bits: PositiveInt
    activation_bits: PositiveInt
    group_size: NonNegativeInt = 0
    symmetric: bool = True
    activations_symmetric: bool = True
    attention_bits: PositiveInt | None = None
    attention_rounding: AttentionRounding = AttentionRounding.HEADS
    simulated: bool = False
    float8: bool = False


class Exported(Answer):
    """How a checkpoint came from another one by a change of layout. `source` is the digest of that other one.

    `exact`: the same codes, scales and zeros, or the same weights with zeros beside them. `dequantized`: the weights of
    a quantized checkpoint in a floating-point layout, with which the method saves nothing. `padded`: layers that differ
    in width were filled up with zeros to the widest; `unpadded_parameter_count` leaves those out.
    """

    source: Sha256
    source_format: CheckpointFormat
    exact: bool
    dequantized: bool = False
    padded: bool = False
    unpadded_parameter_count: PositiveInt | None = None


class _Artifact(Answer):
    files: dict[str, FileEntry]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content address: sha256 over the whole descriptor, and so over every file's sha256."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files.values())


class CheckpointDescriptor(_Artifact):
    """A model in Hugging Face layout, safetensors only. `parent` is the digest of the uncompressed checkpoint."""

    artifact: Literal["checkpoint"] = "checkpoint"
    format: CheckpointFormat
    dtype: Dtype
    architecture: str
    parameter_count: PositiveInt
    source: str
    parent: Sha256 | None = None
    method: str | None = None
    setting: str | None = None
    options: dict[str, Scalar] = {}
    calibrated_on: str | None = None
    sparsity: Sparsity | None = None
    quantization: Quantization | None = None
    exported: Exported | None = None


class DatasetDescriptor(_Artifact):
    """Rows of one data set as `<split>.jsonl.gz`. `origin` says which of the possible sources was used."""

    artifact: Literal["dataset"] = "dataset"
    name: str
    origin: str
    rows: dict[str, NonNegativeInt]


class StatesDescriptor(_Artifact):
    """What a dense model makes of a text: its last hidden states where a token is predicted, its output embedding, and
    the tokens themselves, from which its distributions can be had again.

    `checkpoint` and `dataset` are the digests of model and text. `items` counts segments or pages, `requests`
    the sequences that they are cut into, `tokens` those predicted. The states are in `dtype`, which they were computed
    in, so that nothing is lost; `batch_tokens` bounded the tokens of one forward pass. Files: `tokens.safetensors` has
    `tokens`, all sequences one after the other, and `requests` [requests, 3]: of each its item, tokens of context and
    tokens predicted; `head.safetensors` has `weight` [vocabulary, hidden] and perhaps `bias`;
    `states-NNNNN.safetensors` have `states.N` [tokens predicted, hidden] of request N.
    """

    artifact: Literal["states"] = "states"
    checkpoint: Sha256
    dataset: Sha256
    task: str
    protocol: str
    items: PositiveInt
    items_available: PositiveInt
    requests: PositiveInt
    tokens: PositiveInt
    hidden_size: PositiveInt
    vocabulary_size: PositiveInt
    dtype: Dtype
    batch_tokens: PositiveInt


Descriptor = Annotated[CheckpointDescriptor | DatasetDescriptor | StatesDescriptor, Field(discriminator="artifact")]
