"""Log-likelihoods as deployed: the same engine and kernels that are timed, asked for the prompt's own tokens.

Where the reference scorer and vLLM differ: vLLM needs room for one token after the prompt, so two positions fewer of a
full context are used, and a tie for the largest logit counts as not greedy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.backends.vllm.loading import LoadedEngine, load_engine, loading_notes
from harness.backends.vllm.refusals import explain
from harness.contract import Device, Dtype
from harness.evaluation.deployed import Asked, Scoring, answer_in_batches
from harness.evaluation.engine import EngineFacts
from harness.evaluation.prepared import Answer, TokenRequest


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

    def _answers(self, asked: Sequence[Asked]) -> list[Answer]:
        outputs = self._prompt_log_likelihoods([one.tokens for one in asked])
        return [one.answer(_judged(one, output.prompt_logprobs)) for one, output in zip(asked, outputs, strict=True)]

    def _prompt_log_likelihoods(self, prompts: list[list[int]]) -> list[Any]:
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, ignore_eos=True, detokenize=False)
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


SCORING = Scoring(open_scorer, lost_positions=2)


def _judged(asked: Asked, places: Sequence[Any]) -> list[tuple[float, bool]]:
    """`places` has one entry a prompt token: by token number its log-likelihood in nats and its rank from 1."""
    found = [places[place][asked.tokens[place]] for place in asked.continuation]
    return [(one.logprob, one.rank == 1) for one in found]
