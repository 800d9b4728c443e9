"""From a GGUF file to a folder as transformers saves a model; one tensor is in memory beside what a shard holds."""

from collections import Counter
from pathlib import Path

from harness.contract import Dtype
from harness.contract.gguf import GgufHeader, GgufModel, RefusedGguf, read_header, read_vocabulary, understand
from harness.errors import BadCheckpoint, Unsupported, WorkerError
from harness.fetch.gguf.configuration import write_configuration
from harness.fetch.gguf.tensors import is_quantized, write_weights
from harness.fetch.gguf.tokenizer import write_tokenizer
from harness.reporter import Reporter


def unpack_gguf(packed: Path, folder: Path, dtype: Dtype | None, reporter: Reporter) -> tuple[str, ...]:
    """Write the model of the file `packed` into the new `folder`, weights in `dtype` or in the file's; returns notes.

    Raises:
        BadCheckpoint: the file is damaged or contradicts itself.
        Unsupported: it is sound, and holds what is not understood here.
    """
    try:
        header = read_header(packed)
        model = understand(header)
        vocabulary = read_vocabulary(header, model.vocabulary_size)
    except RefusedGguf as refused:
        raise as_worker_error(refused) from refused
    stored = dtype or model.stored_dtype
    folder.mkdir()
    write_configuration(model, vocabulary, folder, stored)
    write_tokenizer(vocabulary, model.context_tokens, folder)
    write_weights(model, folder, stored, reporter)
    return _notes(header, model, stored)


def as_worker_error(refused: RefusedGguf) -> WorkerError:
    """The same in the words of a worker's answer."""
    if refused.reason is None:
        return BadCheckpoint(refused.message, hint=refused.hint)
    return Unsupported(refused.reason, refused.message, hint=refused.hint)


def _notes(header: GgufHeader, model: GgufModel, stored: Dtype) -> tuple[str, ...]:
    counts = Counter(one.tensor.dtype for one in model.placed if is_quantized(one.tensor))
    if not counts:
        return ()
    types = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return (
        f"weights dequantized from {_file_type(header)} (tensors: {types}), not the original ones, "
        f"then stored as {stored.value}",
    )


def _file_type(header: GgufHeader) -> str:
    """What the file calls its mixture of types, such as Q4_K_M."""
    from gguf import LlamaFileType

    number = header.fields.get("general.file_type")
    known = {int(one): one.name for one in LlamaFileType}
    return known[number].removeprefix("MOSTLY_") if number in known else "GGUF"
