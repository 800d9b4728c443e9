"""Log-likelihoods of tokens under a model, without ever holding the logits of all tokens at once.

Covered: causal models whose logits are the output embedding applied to the last hidden state, which is checked when
`TokenLikelihood` is made. Not covered: models that scale or cap their logits afterwards.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.contract import Reason
from harness.errors import Unsupported

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_LOGITS_BYTES = 128 * 2**20
_PROBE_TOKENS = 8
_PROBE_TOLERANCE = 1e-3


class TokenLikelihood:
    """Splits a model into body and output embedding, and applies the latter only where a likelihood is wanted.

    Raises:
        Unsupported: the two parts do not give the model's own logits.
    """

    def __init__(self, loaded: "LoadedModel") -> None:
        self.device = loaded.device
        model: Any = loaded.model
        self._body: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        self._rows = max(1, _LOGITS_BYTES // (4 * loaded.model.config.vocab_size))
        self._check_split(loaded)

    @torch.inference_mode()
    def hidden(self, tokens: Tensor, **arguments: Any) -> Tensor:
        """Last hidden states [batch, length, hidden] of int64 tokens [batch, length].

        `arguments` go to the model's body: masks, positions and a cache; without them each row is one sequence.
        """
        arguments.setdefault("use_cache", False)
        states: Tensor = self._body(input_ids=tokens.to(self.device), **arguments).last_hidden_state
        return states

    @torch.inference_mode()
    def of(
        self, hidden: Tensor, targets: NDArray[np.int64], row_of: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """For each of `targets` [n]: its float32 log-likelihood [n], and whether no token's is larger.

        Target i is predicted by row `row_of[i]` of `hidden` [rows, hidden], by row i if that is not given; `row_of`
        never falls. The logits are turned into float32 before the softmax, in pieces of at most 128 MiB.
        """
        row_of = np.arange(len(targets)) if row_of is None else row_of
        cuts = np.searchsorted(row_of, np.arange(0, len(hidden) + self._rows, self._rows)).tolist()
        wanted = copy_to_device(np.stack([row_of % self._rows, targets]), self.device)
        likelihoods, greedy = [], []
        for piece, start, stop in zip(torch.split(hidden, self._rows), cuts, cuts[1:], strict=False):
            log_softmax = torch.log_softmax(self.head(piece), dim=-1, dtype=torch.float32)
            rows, tokens = wanted[:, start:stop]
            likelihoods.append(log_softmax[rows, tokens])
            greedy.append(likelihoods[-1] == log_softmax.amax(dim=-1)[rows])
        return torch.cat(likelihoods), torch.cat(greedy)

    @torch.inference_mode()
    def _check_split(self, loaded: "LoadedModel") -> None:
        tokens = torch.arange(min(_PROBE_TOKENS, loaded.model.config.vocab_size), device=self.device)[None]
        whole = loaded.model(input_ids=tokens, use_cache=False).logits.float()
        parts = self.head(self.hidden(tokens)).float()
        if not torch.allclose(parts, whole, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE, equal_nan=True):
            raise Unsupported(
                Reason.ARCHITECTURE,
                f"{loaded.descriptor.architecture} changes its logits after the output embedding",
                hint="evaluation knows models without logit scaling or capping, such as Llama, Mistral, Qwen and OPT",
            )


def copy_to_device(array: NDArray[np.int64], device: torch.device) -> Tensor:
    """The array as a tensor on `device`. A GPU's copy does not wait for what it computes at the moment."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def context_length(loaded: "LoadedModel") -> int:
    """The most tokens, in one sequence, that the model was made for."""
    return int(loaded.model.config.max_position_embeddings)
