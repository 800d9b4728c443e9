"""The scorer as a model of lm-eval, so that `lm_eval.simple_evaluate` can run any of its likelihood tasks with it.

lm-eval's own Hugging Face model is not the base: importing it takes longer than scoring a small model.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.contract import Reason
from harness.errors import Unsupported
from harness.evaluation.likelihood import context_length
from harness.evaluation.prepared import Answer, TokenRequest
from harness.evaluation.scorer.engine import Scorer

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

EncodedRequest = tuple[tuple[str, str], list[int], list[int]]


class LmEvalModel(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """Answers `loglikelihood` and `loglikelihood_rolling`. The arguments are those of `Scorer`."""

    def __init__(
        self, loaded: "LoadedModel", *, token_budget: int | None = None, report: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.tokenizer: Any = loaded.tokenizer
        self.scorer = Scorer(loaded, token_budget=token_budget, report=report)
        self.max_length = context_length(loaded)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a continuation that has no context."""
        beginning = self.tokenizer.bos_token_id
        return self.eot_token_id if beginning is None else int(beginning)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of `string`, with the special tokens that the tokenizer adds by itself unless told otherwise."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        tokens: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return tokens

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood (nats) of each whole text, in lm-eval's windows: each token is predicted once."""
        windows = [self._windows(request.args[0]) for request in requests]
        answers = iter(self._answer([window for text in windows for window in text]))
        return [math.fsum(next(answers).log_likelihood for _ in text) for text in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise Unsupported(
            Reason.TASK, "the scorer finds likelihoods and writes no text", hint="choose a multiple-choice task"
        )

    def _loglikelihood_tokens(self, requests: list[EncodedRequest], **_: Any) -> list[tuple[float, bool]]:
        asked = [TokenRequest(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        return [(answer.log_likelihood, answer.greedy) for answer in self._answer(asked)]

    def _answer(self, requests: Sequence[TokenRequest]) -> list[Answer]:
        return [answer for _, answer in sorted(self.scorer.score(requests), key=lambda numbered: numbered[0])]

    def _windows(self, text: str) -> list[TokenRequest]:
        rolling = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        pairs = map(make_disjoint_window, rolling)
        return [TokenRequest(tuple(context), tuple(continuation)) for context, continuation in pairs]
