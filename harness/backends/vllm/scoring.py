"""Log-likelihoods as deployed: the same engine and kernels that are timed, asked for the prompt's own tokens.

Where the reference scorer and vLLM differ: vLLM needs room for one token after the prompt, so two positions fewer of a
full context are used, and a tie for the largest logit counts as not greedy.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.backends.vllm.loading import LoadedEngine, load_engine, loading_notes
from harness.backends.vllm.refusals import explain
from harness.contract import Device, Dtype
from harness.evaluation.deployed import Asked, Distributions, Likeliest, Scoring, answer_in_batches
from harness.evaluation.engine import EngineFacts
from harness.evaluation.prepared import Answer, TokenRequest

_LIKELIEST = 20
"""Tokens of a place whose log-likelihoods are asked for: as many as `max_logprobs` of vLLM allows by default."""


@dataclass(frozen=True)
class VllmScorer:
    """A checkpoint that scores up to `sequences` requests at once, each of up to `context_tokens - 1` tokens."""

    loaded: LoadedEngine
    context_tokens: int
    sequences: int

    @property
    def facts(self) -> EngineFacts:
        loaded = self.loaded
        return EngineFacts(
            dtype=loaded.dtype,
            dtype_reason=loaded.dtype_reason,
            load_seconds=loaded.load_seconds,
            quantization_note=None,
            notes=("scored by vLLM from prompt log-probabilities", *loading_notes(loaded)),
        )

    def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
        """The index of each request and its answer, in order. A continuation without tokens gets NaN.

        Raises:
            Unsupported: a continuation leaves no room for a token of context.
            OutOfMemory: the logits of one step do not fit.
        """
        return answer_in_batches(requests, self._answers, sequences=self.sequences, context_tokens=self.context_tokens)

    def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[Distributions]:
        """The `_LIKELIEST` tokens of each and the right one. Raises OutOfMemory as `score` does."""
        for start in range(0, len(requests), self.sequences):
            batch = [Asked(one, [*one.context, *one.continuation]) for one in requests[start : start + self.sequences]]
            outputs = self._prompt_log_likelihoods([one.tokens for one in batch], _LIKELIEST)
            for number, (one, output) in enumerate(zip(batch, outputs, strict=True)):
                places = [output.prompt_logprobs[place] for place in one.continuation]
                yield Distributions(start + number, 0, _likeliest(places))

    def _answers(self, asked: Sequence[Asked]) -> list[Answer]:
        outputs = self._prompt_log_likelihoods([one.tokens for one in asked])
        return [one.answer(_judged(one, output.prompt_logprobs)) for one, output in zip(asked, outputs, strict=True)]

    def _prompt_log_likelihoods(self, prompts: list[list[int]], likeliest: int = 0) -> list[Any]:
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=likeliest, ignore_eos=True, detokenize=False
        )
        try:
            outputs: list[Any] = self.loaded.llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False
            )
        except Exception as failure:  # the library raises whatever its parts raise
            raise explain(failure, doing="scoring") from failure
        return outputs


@contextmanager
def open_scorer(
    checkpoint: Path,
    device: Device,
    dtype: Dtype | None,
    *,
    context_tokens: int,
    sequences: int,
    step_tokens: int = 2048,
    work: Path | None = None,
) -> Iterator[VllmScorer]:
    """Load `checkpoint` into vLLM for scoring. Raises as `harness.backends.vllm.loading.load_engine` says.

    `step_tokens` bounds the positions of one step. Each takes a float32 logit for every token of the vocabulary. `work`
    is not made use of: vLLM's own files are small.
    """
    with load_engine(
        checkpoint,
        device,
        dtype,
        context_tokens=context_tokens,
        sequences=sequences,
        max_num_batched_tokens=max(step_tokens, sequences),
    ) as loaded:
        yield VllmScorer(loaded, context_tokens, sequences)


SCORING = Scoring(open_scorer, lost_positions=2, likeliest=_LIKELIEST)


def _judged(asked: Asked, places: Sequence[Any]) -> list[tuple[float, bool]]:
    """`places` has one entry a prompt token: by token number its log-likelihood in nats and its rank from 1."""
    found = [places[place][asked.tokens[place]] for place in asked.continuation]
    return [(one.logprob, one.rank == 1) for one in found]


def _likeliest(places: Sequence[Mapping[int, Any]]) -> Likeliest:
    """`places` as in `_judged`; a right token that is among the likeliest stands there once."""
    import torch

    rows = [[(token, one.logprob) for token, one in place.items()] for place in places]
    width = max(map(len, rows))
    filled = [row + [(0, -math.inf)] * (width - len(row)) for row in rows]
    return Likeliest(
        tokens=torch.tensor([[token for token, _ in row] for row in filled]),
        log_likelihoods=torch.tensor([[nats for _, nats in row] for row in filled], dtype=torch.float64),
    )
