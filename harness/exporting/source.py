"""The checkpoint that an export reads: its descriptor, its config, its tensors one at a time, its linears by name."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from harness.architectures.blocks import Block, decoder_blocks
from harness.architectures.pruned_shapes import model_class
from harness.checkpoint import TensorEntry, open_checkpoint, read_config, read_tensors
from harness.contract import CheckpointFormat, Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.quantization import layouts
from harness.quantization.weight import QuantizedWeight

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Source:
    """An opened checkpoint. Shards are mapped into memory, and only the tensors that are asked for are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.descriptor = open_checkpoint(folder)
        self.config = read_config(folder)
        self.scheme = layouts.check_config(self.descriptor.format, self.descriptor.quantization, self.config)
        self.stored: Mapping[str, TensorEntry] = read_tensors(folder)
        self._files = ExitStack()
        self._shards: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def tensor(self, name: str) -> Tensor:
        """A stored tensor, on the host."""
        shard = self.stored[name].file
        if shard not in self._shards:
            self._shards[shard] = self._files.enter_context(safe_open(self.folder / shard, framework="pt"))
        value: Tensor = self._shards[shard].get_tensor(name)
        return value

    @property
    def format(self) -> CheckpointFormat:
        return self.descriptor.format

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model without any weights (on torch's `meta` device): for the names and shapes of its modules.

        Raises:
            Unsupported: the architecture is not one that transformers knows without remote code.
        """
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        try:
            config = AutoConfig.from_pretrained(str(self.folder), local_files_only=True, trust_remote_code=False)
            plain = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        except (KeyError, ValueError) as unknown:
            raise Unsupported(
                Reason.ARCHITECTURE,
                f"{self.descriptor.architecture} is not known to transformers without remote code",
                hint="choose a model that transformers has itself",
            ) from unknown
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        found = model_class(self.folder)
        make: Any = plain if found.__name__.startswith("Auto") else found
        with torch.device("meta"):
            model: PreTrainedModel = make(config)
        return model

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return decoder_blocks(self.model)

    @cached_property
    def packed_linears(self) -> dict[str, dict[str, str]]:
        """Of each quantized linear, its tensors' names by suffix; only for packed formats."""
        return layouts.quantized_linears(self.format, tuple(self.stored))

    def decode(self, linear: str) -> QuantizedWeight:
        """The codes, scales and zeros of one quantized linear.

        Raises:
            BadCheckpoint: its tensors do not fit together.
        """
        assert self.scheme is not None  # noqa: S101  a packed checkpoint has one
        tensors = {suffix: self.tensor(name) for suffix, name in self.packed_linears[linear].items()}
        try:
            return layouts.decode(self.format, tensors, self.scheme)
        except BadCheckpoint as broken:
            raise BadCheckpoint(f"{linear}: {broken.message}", hint=broken.hint) from broken

    def stored_name(self, parameter: str) -> str:
        """What a parameter of the model is called in the checkpoint: older ones leave out the base module's name.

        Raises:
            BadCheckpoint: it is not there.
        """
        found = parameter if parameter in self.stored else parameter.removeprefix(f"{self.model.base_model_prefix}.")
        if found not in self.stored:
            raise BadCheckpoint(f"the checkpoint has no tensor for {parameter}", hint="compress it again")
        return found

    def dense_linears(self, quantized: frozenset[str]) -> list[str]:
        """Linears of the model that are not among the `quantized`, whose names may lack the base module's."""
        prefix = f"{self.model.base_model_prefix}."
        full = quantized | {prefix + name for name in quantized}
        return [
            name for name, module in self.model.named_modules() if isinstance(module, nn.Linear) and name not in full
        ]
