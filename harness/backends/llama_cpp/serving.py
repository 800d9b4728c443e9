"""Speed of llama.cpp: the checkpoint written as a GGUF file, and its sequences decoded in one batch, step by step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch

from harness.architectures.shape import read_shape
from harness.backends.base import Backend, BatchOrder, EngineInfo, ServedWeights, ServeOrder, TimedRun, products_in
from harness.backends.following import Following, some_positions, tie_nats
from harness.backends.llama_cpp.loading import Loaded, Prepared, load, notes_of, prepare
from harness.backends.llama_cpp.scoring import open_scorer
from harness.backends.llama_cpp.session import Session
from harness.backends.serving_memory import ServingPeak
from harness.checkpoint import read_config
from harness.contract import Dtype, Frozen, MemoryParts
from harness.evaluation.deployed import Scoring
from harness.models.loading import select_device
from harness.profiling.memory import measured_parts
from harness.telemetry import PeakMemory, resident_bytes

_VALUE_BYTES = {Dtype.FLOAT32: 4, Dtype.BFLOAT16: 2, Dtype.FLOAT16: 2}
_WHOLE_BITS, _INTEGER_BITS = 16, 8


class LlamaCppOptions(Frozen):
    """`weights`: `q8_0` and `q4_0` round the dense weights to these types of llama.cpp; `dense` keeps them."""

    weights: Literal["dense", "q8_0", "q4_0"] = "dense"


class LlamaCppEngine:
    """A checkpoint in llama.cpp. See `harness.backends.base.Engine`."""

    def __init__(self, loaded: Loaded, prepared: Prepared, peak: ServingPeak, weights: ServedWeights) -> None:
        session = loaded.session
        self.info = EngineInfo(
            prepared.dtype,
            prepared.dtype_reason,
            load_seconds=loaded.seconds,
            notes=notes_of(prepared, session),
        )
        self.peak = peak
        self.memory_parts: MemoryParts | None = None
        self.weights = weights
        self.vocabulary = session.vocabulary
        self.session = session
        self._activation_bits = _INTEGER_BITS if prepared.has_integer_products else _WHOLE_BITS

    def run(self, batch: BatchOrder) -> TimedRun:
        decoded = self.session.generate(batch.token_ids(self.session.vocabulary), batch.generate_tokens)
        return TimedRun(
            generated_tokens=tuple(len(one) for one in decoded.tokens),
            prefill_seconds=decoded.prefill_seconds,
            decode_seconds=sum(decoded.step_seconds),
            step_seconds=decoded.step_seconds,
            generated=decoded.tokens,
        )

    def follow(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Mapping[int, Following]:
        """At some places, each from the logits after one prompt."""
        found = {}
        for place in some_positions(len(generated)):
            self.session.clear()
            logits = self.session.logits([(*prompt, *generated[:place])], begin=0)[0]
            tie = tie_nats(self.info.dtype, self._activation_bits, float(logits.std()))
            found[place] = Following(int(logits.argmax()), float(logits.max() - logits[generated[place]]), tie)
        return found


@contextmanager
def serve(order: ServeOrder[LlamaCppOptions]) -> Iterator[LlamaCppEngine]:
    """See `harness.backends.base.Backend`. The options are those of `LlamaCppOptions`.

    The GGUF file is written below `work`, which is no part of the load time, nor of the memory.
    """
    config = read_config(order.checkpoint)
    where = select_device(order.device)
    with prepare(
        order.checkpoint,
        order.device,
        order.dtype,
        weights=order.options.weights,
        context_tokens=order.context_tokens,
        work=order.work,
    ) as prepared:
        shape = read_shape(config)
        with ServingPeak(partial(PeakMemory, where)) as peak:
            resident_before = resident_bytes()
            with load(prepared, order.device, sequences=order.sequences, kv_tokens=order.kv_tokens) as loaded:
                session = loaded.session
                weights = _weights(session, prepared, tied=bool(config.get("tie_word_embeddings")))
                engine = LlamaCppEngine(loaded, prepared, peak, weights)
                yield engine
    engine.memory_parts = measured_parts(
        peak.memory,
        where,
        weight_bytes=session.weight_bytes,
        kv_cache_bytes=shape.kv_cache_bytes(
            tokens=session.kv_tokens, batch_size=1, value_bytes=_VALUE_BYTES[prepared.dtype]
        ),
        resident_before_bytes=resident_before,
    )


BACKEND = Backend(LlamaCppOptions, serve)
SCORING = Scoring(open_scorer, lost_positions=0)


def _weights(session: Session, prepared: Prepared, *, tied: bool) -> ServedWeights:
    """Without the input embedding, unless it is the output head too. Rounded weights have integer kernels."""
    not_read = 0 if tied else prepared.written.embedding_bytes
    products = () if prepared.has_integer_products else products_in(prepared.dtype, torch.device("cpu"))
    return ServedWeights(session.weight_bytes - not_read, products)
