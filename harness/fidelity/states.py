"""The artifact of a dense model's states: written request by request, read in the same way. See `StatesDescriptor`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.checkpoint import open_states
from harness.contract import StatesDescriptor
from harness.errors import BadRequest
from harness.evaluation.prepared import TokenRequest

_TOKENS, _HEAD = "tokens.safetensors", "head.safetensors"
_SHARD_BYTES = 256 * 2**20


class StatesWriter:
    """Writes states into `folder`, in files of about 256 MiB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        self._shards = 0

    def add(self, number: int, states: Tensor) -> None:
        """Those of request `number`, [tokens predicted, hidden]."""
        kept = states.cpu().contiguous().clone()
        self._waiting[f"states.{number}"] = kept
        self._waiting_bytes += kept.nbytes
        if self._waiting_bytes >= _SHARD_BYTES:
            self._write()

    def finish(self, requests: Sequence[TokenRequest], items: Sequence[int], head: torch.nn.Linear) -> None:
        """Write what waits, the sequences with the item of each, and the output embedding."""
        self._write()
        tokens = [token for request in requests for token in request.context + request.continuation]
        table = [
            [item, len(request.context), len(request.continuation)]
            for item, request in zip(items, requests, strict=True)
        ]
        of_text = {"tokens": torch.tensor(tokens), "requests": torch.tensor(table)}
        save_file({name: one.to(torch.int32) for name, one in of_text.items()}, self._folder / _TOKENS)
        parts = {"weight": head.weight, **({} if head.bias is None else {"bias": head.bias})}
        save_file({name: _narrowest(part.detach().cpu()) for name, part in parts.items()}, self._folder / _HEAD)

    def _write(self) -> None:
        if self._waiting:
            self._shards += 1
            save_file(self._waiting, self._folder / f"states-{self._shards:05}.safetensors")
            self._waiting, self._waiting_bytes = {}, 0


class KeptStates:
    """The states in `folder`: `requests`, `items` with the item of each, and the dense model's output embedding.

    Raises:
        BadCheckpoint: the folder is not what its descriptor says.
        BadRequest: it does not hold what its descriptor says.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.descriptor: StatesDescriptor = open_states(folder)
        text = load_file(folder / _TOKENS)
        tokens: list[int] = text["tokens"].tolist()
        self.requests: list[TokenRequest] = []
        self.items: list[int] = []
        begin = 0
        for item, context, predicted in text["requests"].tolist():
            if limit is not None and item >= limit:
                break
            sequence = tuple(tokens[begin : begin + context + predicted])
            self.requests.append(TokenRequest(sequence[:context], sequence[context:]))
            self.items.append(item)
            begin += context + predicted
        if not self.requests:
            raise BadRequest(f"{folder} holds the states of no text", hint="make them again")
        self._head = load_file(folder / _HEAD)
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("states-*.safetensors")):
            opened: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(opened.keys(), opened)

    def states(self, number: int) -> Tensor:
        """[tokens predicted, hidden] of one request."""
        name = f"states.{number}"
        if name not in self._files:
            raise BadRequest(f"the states have no {name}", hint="make them again")
        found: Tensor = self._files[name].get_tensor(name)
        return found

    def head(self, device: torch.device, dtype: torch.dtype) -> torch.nn.Linear:
        """The dense model's output embedding."""
        weight, bias = self._head["weight"], self._head.get("bias")
        head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        head.weight = torch.nn.Parameter(weight.to(device, dtype), requires_grad=False)
        if bias is not None:
            head.bias = torch.nn.Parameter(bias.to(device, dtype), requires_grad=False)
        return head


def _narrowest(tensor: Tensor) -> Tensor:
    """The same values in 16 bits, where these hold them: a model may compute in more than it is stored in."""
    for dtype in (torch.bfloat16, torch.float16):
        narrow = tensor.to(dtype)
        if torch.equal(narrow.to(tensor.dtype), tensor):
            return narrow.contiguous()
    return tensor.contiguous()
