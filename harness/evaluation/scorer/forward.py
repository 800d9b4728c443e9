"""One batch through the model: trees of tokens by an attention mask, a trunk by its kept keys and values."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from harness.architectures.windows import attention_windows, shortest_window
from harness.evaluation.likelihood import TokenLikelihood, context_length, copy_to_device
from harness.evaluation.scorer import attention
from harness.evaluation.scorer.chains import Reading, Tokens
from harness.evaluation.scorer.layout import Layout, lay_out
from harness.evaluation.scorer.norms import fuse_norms
from harness.evaluation.scorer.planning import Batch
from harness.evaluation.scorer.rotary import Rotary

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_TREE_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "opt", "glm", "glm4", "gemma3_text"})
_LENGTH_DEPENDENT_ROTARY = frozenset({"dynamic", "longrope"})
_KEYS_MULTIPLE = 8
"""On a GPU: attention masks whose rows are not aligned are copied by the kernels."""


@dataclass(frozen=True)
class ReadBatch:
    """What one reading after the other found: float32 log-likelihoods [p] and whether each token comes first [p]."""

    readings: tuple[Reading, ...]
    log_likelihoods: NDArray[np.float32]
    greedy: NDArray[np.bool_]


@dataclass(frozen=True)
class RunningBatch:
    """A batch that a GPU may still be computing; `fetch` waits for it. `trunk_tokens` had to be computed for it."""

    layout: Layout
    trunk_tokens: int
    found: Tensor
    finished: torch.cuda.Event | None

    def fetch(self) -> ReadBatch:
        if self.finished is not None:
            self.finished.synchronize()
        log_likelihoods, greedy = self.found.numpy()[:, self.layout.order]
        return ReadBatch(self.layout.readings, log_likelihoods, greedy.astype(np.bool_))


class Forward:
    """Runs batches on a model. The last trunk is kept, for the batches that follow it.

    `reason_against_sharing` says, in words, why the model cannot take rows of several chains or a trunk, and
    `reason_against_batches` why it cannot even take several sequences at once; else they are None.
    """

    def __init__(self, loaded: "LoadedModel") -> None:
        model: Any = loaded.model
        self._likelihood = TokenLikelihood(loaded)
        self._device = loaded.device
        self._config: Any = model.config
        self._dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        self._context_length = context_length(loaded)
        self._rotary: Rotary | None = None
        if self._device.type == "cuda":
            fuse_norms(model)
            self._rotary = Rotary(model, _head_size(self._config))
        self._trunk_apart = _lets_trunk_apart(self._config)
        self._trunk = b""
        self._trunk_layers: list[attention.KeysAndValues] = []
        self.reason_against_batches = _reason_against_batches(self._config)
        self.reason_against_sharing = self.reason_against_batches or _reason_against_sharing(self._config)

    @torch.inference_mode()
    def start(self, batch: Batch) -> RunningBatch:
        """Hand the batch to the device. Raises RuntimeError where memory does not suffice."""
        layout = lay_out(batch, width=self._width(batch))
        trunk_tokens = 0 if self._has(batch.trunk) else len(batch.trunk)
        with self._rotary.replaced() if self._rotary else nullcontext():
            arguments = self._tree_arguments(batch, layout) if batch.is_tree else {}
            with self._attention_of(arguments):
                hidden = self._likelihood.hidden(copy_to_device(layout.tokens, self._device), **arguments)
        read = hidden.flatten(0, 1)[copy_to_device(layout.reads, self._device)]
        log_likelihoods, greedy = self._likelihood.of(read, layout.targets, layout.read_of)
        return self._leave(layout, trunk_tokens, torch.stack([log_likelihoods, greedy.float()]))

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:
        """Last hidden states [rows, length, hidden] of plain sequences, int64 [rows, length]."""
        with self._rotary.replaced() if self._rotary else nullcontext():
            return self._likelihood.hidden(tokens)

    @property
    def head(self) -> torch.nn.Linear:
        """What makes logits of the last hidden states."""
        head: torch.nn.Linear = self._likelihood.head
        return head

    def forget_trunk(self) -> None:
        self._trunk, self._trunk_layers = b"", []

    def _width(self, batch: Batch) -> int:
        if self._device.type != "cuda":
            return batch.width
        keys = batch.width if self._trunk_apart else len(batch.trunk) + batch.width
        padded = batch.width + -keys % _KEYS_MULTIPLE
        return padded if batch.is_tree else max(batch.width, min(padded, self._context_length))

    def _tree_arguments(self, batch: Batch, layout: Layout) -> dict[str, Any]:
        """A trunk goes to the attention by itself, or, where a window hides some of it, before each row's own keys."""
        depths = copy_to_device(layout.depths, self._device)
        ends = copy_to_device(layout.ends, self._device)
        kept = self._keys_and_values(batch.trunk) if len(batch.trunk) else []
        before = 0 if self._trunk_apart else len(batch.trunk)
        masks = self._masks(_visible(depths, ends, before), depths, before)
        arguments: dict[str, Any] = {"position_ids": depths, "attention_mask": masks}
        if kept and self._trunk_apart:
            arguments["trunk"] = kept
        elif kept:
            cache = Cache(layers=[_TrunkLayer(keys, values) for keys, values in kept])
            arguments |= {"past_key_values": cache, "use_cache": True}
        return arguments

    @contextmanager
    def _attention_of(self, arguments: dict[str, Any]) -> Iterator[None]:
        """Plain sequences have the model's own attention, a trunk apart from the rows the one that takes it."""
        usual = self._config._attn_implementation
        if "trunk" in arguments:
            self._config._attn_implementation = attention.NAME
        try:
            with sdpa_kernel(list(attention.KERNELS)) if arguments else nullcontext():
                yield
        finally:
            self._config._attn_implementation = usual

    def _masks(self, sees: Tensor, depths: Tensor, trunk: int) -> Tensor | dict[str, Tensor]:
        windows = attention_windows(self._config)
        masks = {kind: _additive(_within(sees, depths, trunk, window), self._dtype) for kind, window in windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _keys_and_values(self, trunk: Tokens) -> list[attention.KeysAndValues]:
        """Of each layer; computed if they are not those that were kept."""
        if not self._has(trunk):
            self.forget_trunk()
            cache: Any = DynamicCache()
            tokens = copy_to_device(trunk[None], self._device)
            self._likelihood.hidden(tokens, past_key_values=cache, use_cache=True)
            self._trunk = trunk.tobytes()
            self._trunk_layers = [(layer.keys, layer.values) for layer in cache.layers]
        return self._trunk_layers

    def _has(self, trunk: Tokens) -> bool:
        return self._trunk == trunk.tobytes()

    def _leave(self, layout: Layout, trunk_tokens: int, found: Tensor) -> RunningBatch:
        if found.device.type != "cuda":
            return RunningBatch(layout, trunk_tokens, found, None)
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        host.copy_(found, non_blocking=True)
        finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
        finished.record()
        return RunningBatch(layout, trunk_tokens, host, finished)


class _TrunkLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Puts one sequence's keys and values [1, heads, trunk, size] before those of every row, and keeps no more."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys: Tensor = keys
        self.values: Tensor = values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )


def _reason_against_sharing(config: Any) -> str | None:
    if config.model_type in _TREE_FAMILIES:
        return None
    return f"model type {config.model_type!r} was not tested with shared beginnings"


def _reason_against_batches(config: Any) -> str | None:
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if kind not in _LENGTH_DEPENDENT_ROTARY:
        return None
    return f"the rotary embedding {kind!r} depends on the longest sequence of a batch"


def _lets_trunk_apart(config: Any) -> bool:
    """Whether every token sees the whole trunk, and attention over it by itself is possible."""
    return shortest_window(config) is None and attention.fits_kernels(_head_size(config))


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _visible(depths: Tensor, ends: Tensor, trunk: int) -> Tensor:
    """bool [rows, queries, trunk + keys] from int64 [rows, width]: a token is seen by itself and what follows it."""
    place = torch.arange(depths.shape[1], device=depths.device)
    own = (place[None, None, :] <= place[None, :, None]) & (place[None, :, None] < ends[:, None, :])
    return torch.nn.functional.pad(own, (trunk, 0), value=True)


def _within(sees: Tensor, depths: Tensor, trunk: int, window: int | None) -> Tensor:
    if window is None:
        return sees
    before = torch.arange(trunk, device=depths.device).expand(len(depths), trunk)
    return sees & (depths[:, :, None] - torch.cat([before, depths], dim=1)[:, None, :] < window)


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, 1, queries, keys]: 0 where a key is seen, minus infinity elsewhere."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)[:, None]
