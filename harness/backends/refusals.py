"""What a library must not be given, and what its exceptions mean where it has no classes of its own for them.

Then their words decide. Anything unknown stays a failure and is never taken for a refusal.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.contract import CheckpointDescriptor, CheckpointFormat, Reason
from harness.errors import OutOfMemory, Unsupported, WorkerError

_DEFAULT_THETA = 10000.0


@dataclass(frozen=True)
class Wording:
    """The words by which `library` says that memory does not suffice, and by which it refuses, in order."""

    library: str
    memory: re.Pattern[str]
    refusals: tuple[tuple[Reason, re.Pattern[str]], ...]


def explain(failure: BaseException, wording: Wording, *, doing: str) -> WorkerError:
    """The error to raise instead of `failure`, which the library ended with while `doing`."""
    for link in _chain(failure):
        if isinstance(link, WorkerError):
            return link
        if known := _recognise(link, wording):
            return known
    return WorkerError(
        f"{wording.library} failed while {doing}: {type(failure).__name__}: {_first_sentence(failure)}",
        hint="the traceback is in the stage's stderr.log",
    )


def refuse_ggml_blocks(library: str, descriptor: CheckpointDescriptor) -> None:
    """Raise Unsupported for blocks of llama.cpp's types, for which `library` has no kernels."""
    if descriptor.format is CheckpointFormat.GGUF:
        raise Unsupported(
            Reason.FORMAT,
            f"{library} has no kernels for llama.cpp's blocks, and made dense they bring neither speed nor memory",
            hint="serve the checkpoint with `llama-cpp`",
        )


def refuse_unread_rotation(library: str, config: Mapping[str, Any]) -> None:
    """Raise Unsupported where `library` would silently rotate by other angles than the model was trained with.

    Such a library reads `rope_theta` and `rope_scaling` at the top level of config.json, and takes 10000 without any
    scaling where they are missing; transformers 5 writes both into `rope_parameters`.
    """
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or "rope_theta" in config:
        return
    theta = parameters.get("rope_theta", _DEFAULT_THETA)
    if theta == _DEFAULT_THETA and parameters.get("rope_type", "default") == "default":
        return
    raise Unsupported(
        Reason.FORMAT,
        f"{library} does not read rope_parameters of config.json, and would silently take rope_theta {_DEFAULT_THETA:g}"
        f" without scaling instead of {theta:g} ({parameters.get('rope_type', 'default')})",
        hint="export the checkpoint for this library: that writes rope_theta at the top level",
    )


def _chain(failure: BaseException) -> Iterator[BaseException]:
    """The failure, and what it was raised from: a library may wrap the error that has the words."""
    link: BaseException | None = failure
    while link is not None:
        yield link
        link = link.__cause__


def _recognise(failure: BaseException, wording: Wording) -> WorkerError | None:
    text, whole = _first_sentence(failure), str(failure)
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError" or wording.memory.search(whole):
        return OutOfMemory(
            f"{wording.library} found too little memory: {text}",
            hint="use a smaller batch or shorter sequences, a smaller model, or a larger device",
        )
    for reason, words in wording.refusals:
        if words.search(whole):
            return Unsupported(
                reason,
                f"{wording.library} refuses this checkpoint: {text}",
                hint="docs/backends.md says what each build serves",
            )
    return None


def _first_sentence(failure: BaseException) -> str:
    """One line: pydantic puts its own heading first and the words that matter after `Value error, `."""
    text = str(failure)
    if "Value error, " in text:
        text = text.partition("Value error, ")[2].partition(" [type=")[0]
    return re.sub(r"\s+", " ", text).strip() or "no reason given"
