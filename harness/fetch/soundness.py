"""What a model must be so that every later operation reads the same one from it: found out once, when it is fetched.

Every parameter of the architecture is stored, once, in the shape that config.json says, and finite; every token that
text can give has a row in the embedding. What later operations look at again is cheap: headers, not weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.architectures.usable import explained_config, read_architecture
from harness.checkpoint import CONFIG_NAME, TensorEntry, read_config
from harness.errors import BadCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

_QUOTED_CHARACTERS = 500
_PROBE = "w1 some words 2"
_TOGETHER = "config.json and the weights come from different models; copy or download them together"


@dataclass(frozen=True)
class Soundness:
    """`parameter_count` counts tied parameters once. `copies` are stored tensors that are equal to what they are tied
    to, and need not be stored."""

    parameter_count: int
    copies: frozenset[str]

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.copies:
            return ()
        return (f"not stored again, since tied to an equal tensor: {', '.join(sorted(self.copies))}",)


def check_weights(described: Path, source: Path, tensors: Mapping[str, TensorEntry]) -> Soundness:
    """Hold the weights in `source` against the model that `described/config.json` describes; none is ever allocated.

    Raises:
        BadCheckpoint: a parameter is missing, of another shape, or not finite; or a tensor differs from the one that it
            is tied to, so that readers would not agree on the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = read_architecture(read_config(described))
    with explained_config(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    copies = _tied_copies(model, source, tensors)
    unread = _check_parameters(type(model), config, {name: tensors[name] for name in tensors.keys() - copies})
    for name in sorted(tensors.keys() - unread):
        _require_finite(name, _read(source, name, tensors[name]))
    return Soundness(sum(parameter.numel() for parameter in model.parameters()), copies)


def check_tokenizer(folder: Path) -> tuple[str, ...]:
    """Notes on a tokenizer that fits the embedding of the model in `folder`.

    A token that was added and stands for no text, such as a padding token, may lie beyond the embedding.

    Raises:
        BadCheckpoint: text can give a token that has no row in the embedding.
    """
    from transformers import AutoTokenizer

    rows = int(read_config(folder)["vocab_size"])
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as broken:  # the tokenizers library raises no narrower class
        raise BadCheckpoint(
            f"the tokenizer cannot be loaded: {str(broken)[:_QUOTED_CHARACTERS]}",
            hint="copy or download the tokenizer's files again",
        ) from broken
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    read = {number for number in tokenizer(_PROBE)["input_ids"] if number >= rows}
    if worst := max([*(beyond[token] for token in beyond.keys() - added), *read], default=None):
        raise BadCheckpoint(
            f"the tokenizer gives tokens up to {worst}, the model's embedding has {rows} rows",
            hint="use the tokenizer that belongs to the model, or resize the embedding",
        )
    if not beyond:
        return ()
    names = ", ".join(repr(token) for token in sorted(beyond))
    return (f"the embedding ({rows} rows) has none for the added tokens {names}, which no text may contain",)


def _tied_copies(model: Any, source: Path, tensors: Mapping[str, TensorEntry]) -> frozenset[str]:
    """The stored tensors that are equal to the one that they are tied to.

    Raises:
        BadCheckpoint: one differs. transformers 5 then computes with both, transformers 4 and other engines with one.
    """
    import torch

    prefix = f"{model.base_model_prefix}."
    copies = set()
    for name, tied_to in model.all_tied_weights_keys.items():
        stored = next((one for one in (tied_to, tied_to.removeprefix(prefix)) if one in tensors), None)
        if name not in tensors or stored is None:
            continue
        if not torch.equal(_read(source, name, tensors[name]), _read(source, stored, tensors[stored])):
            raise BadCheckpoint(
                f"{name} is stored and differs from {stored}, to which tie_word_embeddings in {CONFIG_NAME} ties it",
                hint=f"set tie_word_embeddings to false in {CONFIG_NAME} if the model is meant to have both, "
                f"or take {name} out of the weights: readers do not agree on which counts",
            )
        copies.add(name)
    return frozenset(copies)


def _check_parameters(model_class: Any, config: Any, tensors: Mapping[str, TensorEntry]) -> set[str]:
    """Let transformers place the tensors by their headers; returns the names of those that it does not read."""
    import torch

    placeholders = {
        name: torch.empty(entry.shape, dtype=getattr(torch, _TORCH_DTYPES.get(entry.dtype, "uint8")), device="meta")
        for name, entry in tensors.items()
    }
    with explained_config():
        _, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=placeholders,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if report["mismatched_keys"]:
        name, stored, expected = sorted(report["mismatched_keys"])[0]
        raise BadCheckpoint(
            f"{name} is stored as {tuple(stored)}, but config.json says {tuple(expected)}", hint=_TOGETHER
        )
    if absent := sorted(report["missing_keys"]):
        raise BadCheckpoint(
            f"{len(absent)} weight(s) that the architecture needs are not stored, the first {absent[0]}", hint=_TOGETHER
        )
    return set(report["unexpected_keys"])


_TORCH_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
}  # fmt: skip


def _read(source: Path, name: str, entry: TensorEntry) -> "Tensor":
    from safetensors import safe_open

    with safe_open(source / entry.file, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _require_finite(name: str, tensor: "Tensor") -> None:
    if not tensor.is_floating_point() or (finite := tensor.isfinite()).all():
        return
    bad = int(tensor.numel() - finite.sum())
    raise BadCheckpoint(
        f"{bad} of the {tensor.numel()} weights of {name} are NaN or infinite",
        hint="the weights were damaged when they were trained, converted or merged; take them from another source",
    )
