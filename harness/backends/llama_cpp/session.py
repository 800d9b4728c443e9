"""One GGUF file in llama.cpp: the model, one context for several sequences, and batches of token numbers through it."""

import ctypes
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.backends.llama_cpp import library as c
from harness.contract import Dtype, Reason
from harness.errors import OutOfMemory, Unsupported, WorkerError

_CACHE_TYPES = {Dtype.FLOAT32: c.F32, Dtype.FLOAT16: c.F16, Dtype.BFLOAT16: c.BF16}
_MEMORY_WORDS = ("failed to allocate", "out of memory", "bad_alloc")


@dataclass(frozen=True)
class Decoded:
    """Greedily chosen tokens [sequences][generated], the wall time of the first of each, and between later ones."""

    tokens: tuple[tuple[int, ...], ...]
    prefill_seconds: float
    step_seconds: tuple[float, ...]


class Session:
    """A loaded model with its context. Sequences are numbered from 0; `clear` forgets them all."""

    def __init__(self, library: Any, model: Any, context: Any, log: "Log", step_tokens: int) -> None:
        self.step_tokens = step_tokens
        self.weight_bytes = int(library.llama_model_size(model))
        self.kv_tokens = int(library.llama_n_ctx(context))
        self.vocabulary = int(library.llama_vocab_n_tokens(library.llama_model_get_vocab(model)))
        self.instructions = _instructions(library.llama_print_system_info().decode())
        self._library = library
        self._context = context
        self._log = log

    def clear(self) -> None:
        """Raises WorkerError where keys and values of an earlier run are still there."""
        memory = self._library.llama_get_memory(self._context)
        self._library.llama_memory_clear(memory, False)
        if self._library.llama_memory_seq_pos_max(memory, 0) != -1:
            raise WorkerError(
                "llama.cpp kept tokens that it was told to forget", hint="use the version in the image's lock"
            )

    def logits(self, rows: Sequence[Sequence[int]], *, begin: int) -> Any:
        """Put `rows[i]` at positions `begin` on of sequence i; float32 [rows, vocabulary] after their last tokens.

        Raises:
            WorkerError: llama.cpp did not compute it, for the reason that it logged.
        """
        import numpy

        library, length = self._library, len(rows[0])
        batch = _Batch.alike(rows, begin)
        if (code := library.llama_decode(self._context, batch.structure)) != 0:
            raise self._log.explain(f"computing {len(rows)} sequences (code {code})")
        library.llama_synchronize(self._context)
        found = [library.llama_get_logits_ith(self._context, (number + 1) * length - 1) for number in range(len(rows))]
        return numpy.stack([numpy.ctypeslib.as_array(one, (self.vocabulary,)) for one in found])

    def last_logits(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> Iterator[tuple[int, int, Any]]:
        """Read `rows[i]`, of any lengths, as sequence i; the logits after each of its last `counts[i]` tokens.

        As (i, which of these tokens comes first, float32 [some, vocabulary]), in order, a step's worth at a time.

        Raises:
            WorkerError: llama.cpp did not compute it, for the reason that it logged.
        """
        import numpy

        self.clear()
        library = self._library
        for batch in _steps(rows, counts, self.step_tokens):
            if (code := library.llama_decode(self._context, batch.structure)) != 0:
                raise self._log.explain(f"scoring {len(rows)} sequences (code {code})")
            library.llama_synchronize(self._context)
            for number in dict.fromkeys(batch.sequences.tolist()):
                places = numpy.flatnonzero((batch.sequences == number) & (batch.wanted != 0))
                if not len(places):
                    continue
                found = [library.llama_get_logits_ith(self._context, int(place)) for place in places]
                logits = numpy.stack([numpy.ctypeslib.as_array(one, (self.vocabulary,)) for one in found])
                first = int(batch.positions[places[0]]) - (len(rows[number]) - counts[number])
                yield number, first, logits

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> Decoded:
        """Continue prompts of one length by `tokens` tokens each, an end token or not, all of them in one batch."""
        self.clear()
        length = len(prompts[0])
        begin = time.perf_counter()
        chosen = self.logits(prompts, begin=0).argmax(axis=-1).tolist()
        times = [time.perf_counter()]
        generated = [chosen]
        while len(generated) < tokens:
            chosen = self.logits([[one] for one in chosen], begin=length + len(generated) - 1).argmax(axis=-1).tolist()
            generated.append(chosen)
            times.append(time.perf_counter())
        steps = tuple(after - before for before, after in itertools.pairwise(times))
        return Decoded(tuple(zip(*generated, strict=True)), times[0] - begin, steps)


class Log:
    """llama.cpp's own messages: warnings and errors on stderr; the errors are kept to say why something failed."""

    def __init__(self, library: Any) -> None:
        self._errors: list[str] = []
        self._level = 0
        self._callback = c.LogCallback(self._take)  # referred to: the library calls it from now on
        library.llama_log_set(self._callback, None)

    def explain(self, doing: str) -> WorkerError:
        """The error to raise when llama.cpp failed while `doing`."""
        words = " ".join("".join(self._errors).split()) or "it logged no reason"
        if any(one in words.lower() for one in _MEMORY_WORDS):
            return OutOfMemory(
                f"llama.cpp found too little memory while {doing}: {words}", hint="use a smaller batch or model"
            )
        return WorkerError(
            f"llama.cpp failed while {doing}: {words}", hint="its whole log is in the stage's stderr.log"
        )

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if level != c.LOG_CONTINUED:
            self._level = level
        if self._level == c.LOG_ERROR:
            self._errors.append(text.decode(errors="replace"))
        if self._level in (c.LOG_WARNING, c.LOG_ERROR):
            sys.stderr.write(text.decode(errors="replace"))


@contextmanager
def open_session(
    library: Any,
    log: Log,
    file: Path,
    dtype: Dtype,
    *,
    threads: int,
    sequences: int,
    kv_tokens: int,
    step_tokens: int | None = None,
) -> Iterator[Session]:
    """The file in memory (not mapped), with room for keys and values of `kv_tokens` in `dtype`, shared out evenly.

    llama.cpp rounds each sequence's share up to 256 positions. With `step_tokens`, up to so many tokens are computed at
    once, with logits for each; without, all of them, with one of each sequence.

    Raises:
        Unsupported: there are more sequences than the library can tell apart.
        OutOfMemory, WorkerError: it could not be loaded, for the reason that llama.cpp logged.
    """
    if sequences > c.MOST_SEQUENCES:
        raise Unsupported(
            Reason.SHAPE,
            f"llama.cpp takes {c.MOST_SEQUENCES} sequences at once, not {sequences}",
            hint="ask for a smaller batch",
        )
    model = library.llama_model_load_from_file(str(file).encode(), _model_parameters(library))
    if not model:
        raise log.explain("loading the model")
    try:
        context = library.llama_init_from_model(
            model,
            _context_parameters(
                library, dtype, threads=threads, sequences=sequences, kv_tokens=kv_tokens, step_tokens=step_tokens
            ),
        )
        if not context:
            raise log.explain("reserving keys and values")
        try:
            yield Session(library, model, context, log, step_tokens or kv_tokens)
        finally:
            library.llama_free(context)
    finally:
        library.llama_model_free(model)


def _model_parameters(library: Any) -> Any:
    parameters = library.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.load_mode = c.LOAD_WHOLE
    return parameters


def _context_parameters(
    library: Any, dtype: Dtype, *, threads: int, sequences: int, kv_tokens: int, step_tokens: int | None
) -> Any:
    parameters = library.llama_context_default_params()
    parameters.n_ctx, parameters.n_batch = kv_tokens, step_tokens or kv_tokens
    parameters.n_seq_max, parameters.n_outputs_max = sequences, step_tokens or sequences
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.type_k = parameters.type_v = _CACHE_TYPES[dtype]
    parameters.kv_unified = False
    if dtype is Dtype.FLOAT32:
        parameters.flash_attn_type = c.FLASH_ATTENTION_OFF  # it rounds to 16 bits inside
    return parameters


class _Batch:
    """Arrays for `llama_decode`, kept alive as long as the structure that points into them."""

    def __init__(self, tokens: Any, positions: Any, sequences: Any, wanted: Any) -> None:
        """int32 [tokens] each, and whether a token's logits are wanted."""
        import numpy

        count = len(tokens)
        self.tokens, self.positions, self.sequences = (
            numpy.ascontiguousarray(one, dtype=numpy.int32) for one in (tokens, positions, sequences)
        )
        self.ones = numpy.ones(count, dtype=numpy.int32)
        self.pointers = self.sequences.ctypes.data + 4 * numpy.arange(count, dtype=numpy.uint64)
        self.wanted = numpy.ascontiguousarray(wanted, dtype=numpy.int8)
        integers, bytes_ = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        self.structure = c.Batch(
            n_tokens=count,
            token=self.tokens.ctypes.data_as(integers),
            pos=self.positions.ctypes.data_as(integers),
            n_seq_id=self.ones.ctypes.data_as(integers),
            seq_id=self.pointers.ctypes.data_as(ctypes.POINTER(integers)),
            logits=self.wanted.ctypes.data_as(bytes_),
        )

    @classmethod
    def alike(cls, rows: Sequence[Sequence[int]], begin: int) -> "_Batch":
        """Rows of one length from position `begin` on, of which the last tokens' logits are wanted."""
        import numpy

        count, length = len(rows), len(rows[0])
        return cls(
            numpy.array(rows).reshape(-1),
            numpy.tile(numpy.arange(begin, begin + length), count),
            numpy.repeat(numpy.arange(count), length),
            numpy.tile(numpy.arange(length) == length - 1, count),
        )


def _steps(rows: Sequence[Sequence[int]], counts: Sequence[int], step_tokens: int) -> Iterator[_Batch]:
    """All tokens of all rows, row after row, `step_tokens` at a time; wanted are the last `counts` of each row."""
    import numpy

    lengths = [len(row) for row in rows]
    tokens = numpy.concatenate([numpy.array(row) for row in rows])
    positions = numpy.concatenate([numpy.arange(length) for length in lengths])
    sequences = numpy.repeat(numpy.arange(len(rows)), lengths)
    wanted = numpy.concatenate(
        [numpy.arange(length) >= length - count for length, count in zip(lengths, counts, strict=True)]
    )
    for start in range(0, len(tokens), step_tokens):
        part = slice(start, start + step_tokens)
        yield _Batch(tokens[part], positions[part], sequences[part], wanted[part])


def _instructions(system: str) -> tuple[str, ...]:
    """What the library says it was compiled with, such as `AVX2`."""
    words = system.replace("CPU :", "").split("|")
    return tuple(name.strip() for name, _, value in (word.partition("=") for word in words) if value.strip() == "1")
