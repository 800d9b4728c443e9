"""The checkpoint that is held against the dense model, opened by the reference or by a backend."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from harness.contract import FidelityRequest, Reason, StatesDescriptor
from harness.errors import Unsupported
from harness.evaluation.definitions import ModelFacts
from harness.evaluation.deployed import (
    Likeliest,
    Scorer,
    ScoringBackend,
    find_scoring_backend,
    open_scorer,
)
from harness.evaluation.engine import EngineFacts, EngineJob
from harness.fidelity.divergence import Compared, Head, compare, compare_likeliest
from harness.fidelity.passes import Passes
from harness.fidelity.states import KeptStates
from harness.inputs import input_folder
from harness.models.loading import TORCH_DTYPES, load_config, load_model, load_tokenizer, select_device


@dataclass(frozen=True)
class Part:
    """What was compared of request `number`, and how many of its tokens."""

    number: int
    compared: Compared


class Other(Protocol):
    """An opened checkpoint. `protocol` stands before that of the text."""

    protocol: str

    @property
    def facts(self) -> EngineFacts: ...

    def against(self, kept: KeptStates) -> Iterator[Part]:
        """Hold it against the dense model's states, over all requests in order."""


@contextmanager
def open_other(request: FidelityRequest, kept: KeptStates) -> Iterator[Other]:
    """The input `checkpoint` of a request whose `states` are kept, by the engine that it names.

    Raises:
        Unsupported: the engine is unknown or cannot do it, or the vocabulary is another than the dense model's.
        WorkerError: as loading the model by that engine says.
    """
    backend = find_scoring_backend(request.parameters.engine)
    if backend is None:
        yield _Reference(request, kept.descriptor)
        return
    folder = input_folder(request, "checkpoint")
    longest = _longest(folder, backend, kept)
    job = EngineJob(folder, request.device, request.parameters.dtype, kept.descriptor.batch_tokens)
    with open_scorer(backend, job, longest, Path(request.output)) as scorer:
        yield _Deployed(scorer, backend, select_device(request.device))


class _Reference:
    protocol = "kl"

    def __init__(self, request: FidelityRequest, dense: StatesDescriptor) -> None:
        self._loaded = load_model(input_folder(request, "checkpoint"), request.device, request.parameters.dtype)
        self._passes = Passes(self._loaded, dense.batch_tokens)
        _refuse_other_vocabulary(self._passes.forward.head.weight.shape[0], dense)

    @property
    def facts(self) -> EngineFacts:
        loaded = self._loaded
        return EngineFacts(loaded.dtype, loaded.dtype_reason, loaded.load_seconds, loaded.quantization_note)

    def against(self, kept: KeptStates) -> Iterator[Part]:
        device, described = self._loaded.device, kept.descriptor
        dense_head = kept.head(device, TORCH_DTYPES[described.dtype])
        for read in self._passes.read(kept.requests):
            targets = torch.tensor(kept.requests[read.number].continuation, device=device)
            dense, other = kept.states(read.number).to(device), read.states
            sides = (dense, dense_head), (other, self._passes.forward.head)
            yield Part(read.number, compare(*sides, targets, vocabulary=described.vocabulary_size))


class _Deployed:
    """`device` is where the dense model's logits are made; the backend has the other's wherever it puts them."""

    def __init__(self, scorer: Scorer, backend: ScoringBackend, device: torch.device) -> None:
        likeliest = backend.scoring.likeliest
        self.protocol = "kl" if likeliest is None else f"kl-top{likeliest}"
        self._scorer, self._device = scorer, device

    @property
    def facts(self) -> EngineFacts:
        return self._scorer.facts

    def against(self, kept: KeptStates) -> Iterator[Part]:
        dense_head = kept.head(self._device, TORCH_DTYPES[kept.descriptor.dtype])
        for found in self._scorer.distributions(kept.requests):
            known = found.known
            at = slice(found.first, found.first + len(known if isinstance(known, Tensor) else known.tokens))
            dense = kept.states(found.number)[at].to(self._device), dense_head
            targets = torch.tensor(kept.requests[found.number].continuation[at], device=self._device)
            yield Part(found.number, self._compare(dense, known, targets, kept.descriptor))

    def _compare(
        self, dense: tuple[Tensor, Head], known: Tensor | Likeliest, targets: Tensor, described: StatesDescriptor
    ) -> Compared:
        size = described.vocabulary_size
        if isinstance(known, Tensor):
            _refuse_other_vocabulary(known.shape[1], described)
            return compare(dense, (known.to(self._device), lambda logits: logits), targets, vocabulary=size)
        at_device = Likeliest(known.tokens.to(self._device), known.log_likelihoods.to(self._device))
        return compare_likeliest(dense, at_device, targets, vocabulary=size)


def _longest(folder: Path, backend: ScoringBackend, kept: KeptStates) -> int:
    """Tokens of the longest sequence. All of it has to fit: the dense model saw the whole."""
    facts = ModelFacts.of(load_tokenizer(folder), load_config(folder))
    _refuse_other_vocabulary(facts.vocabulary_size, kept.descriptor)
    longest = max(len(one.context) + len(one.continuation) for one in kept.requests)
    room = facts.context_length + 1 - backend.scoring.lost_positions
    if longest > room:
        raise Unsupported(
            Reason.SHAPE,
            f"a sequence has {longest} tokens, and {backend.name} takes {room} of this model's",
            hint="choose a task with shorter segments, for every model that is compared",
        )
    return longest


def _refuse_other_vocabulary(size: int, described: StatesDescriptor) -> None:
    if size != described.vocabulary_size:
        raise Unsupported(
            Reason.SHAPE,
            f"the model tells {size} tokens apart, and the dense one {described.vocabulary_size}",
            hint="only models of one vocabulary have distributions that can be compared",
        )
