"""Log-likelihoods of tokens under a model, without ever holding the logits of all tokens at once.

Covered: causal models whose logits are the output embedding applied to the last hidden state, which is checked when
`TokenLikelihood` is made. Not covered: models that scale or cap their logits afterwards.
"""

from typing import TYPE_CHECKING, Any

import torch
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
        self._head: Any = model.get_output_embeddings()
        self._rows = max(1, _LOGITS_BYTES // (4 * loaded.model.config.vocab_size))
        self._check_split(loaded)

    @torch.inference_mode()
    def hidden(self, tokens: Tensor) -> Tensor:
        """Last hidden states [batch, length, hidden] of int64 tokens [batch, length]."""
        states: Tensor = self._body(input_ids=tokens.to(self.device), use_cache=False).last_hidden_state
        return states

    @torch.inference_mode()
    def of(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """For each row of `hidden` [n, hidden]: float32 log-likelihood [n] of its target, and whether it comes first.

        The logits are turned into float32 before the softmax, in pieces of at most 128 MiB.
        """
        likelihoods, greedy = [], []
        targets = targets.to(self.device)
        for rows, wanted in zip(torch.split(hidden, self._rows), torch.split(targets, self._rows), strict=True):
            logits = self._head(rows).float()
            likelihoods.append(-torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
            greedy.append(logits.argmax(dim=-1) == wanted)
        return torch.cat(likelihoods), torch.cat(greedy)

    @torch.inference_mode()
    def _check_split(self, loaded: "LoadedModel") -> None:
        tokens = torch.arange(min(_PROBE_TOKENS, loaded.model.config.vocab_size), device=self.device)[None]
        whole = loaded.model(input_ids=tokens, use_cache=False).logits.float()
        parts = self._head(self.hidden(tokens)).float()
        if not torch.allclose(parts, whole, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE, equal_nan=True):
            raise Unsupported(
                Reason.ARCHITECTURE,
                f"{loaded.descriptor.architecture} changes its logits after the output embedding",
                hint="evaluation knows models without logit scaling or capping, such as Llama, Mistral, Qwen and OPT",
            )


def context_length(loaded: "LoadedModel") -> int:
    """The most tokens, in one sequence, that the model was made for."""
    return int(loaded.model.config.max_position_embeddings)
