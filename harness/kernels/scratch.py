"""Room for one dense weight at a time, shared by all layers of a model."""

import torch
from torch import Tensor


class Scratch:
    """One dense buffer that layers expand into, one after another on one stream.

    Layers reserve while they are made, and the first use makes the buffer. So every layer must exist, and one of them
    must have expanded its weight, before a CUDA graph is captured: a graph keeps the buffer's address.
    """

    def __init__(self) -> None:
        self._elements = 0
        self._buffer: Tensor | None = None

    @property
    def held_bytes(self) -> int:
        return 0 if self._buffer is None else self._buffer.nbytes

    def reserve(self, elements: int) -> None:
        self._elements = max(self._elements, elements)

    def like(self, x: Tensor) -> Tensor:
        """The buffer, flat, in the dtype and on the device of the first `x` that it was asked for with."""
        if self._buffer is None:
            self._buffer = torch.empty(self._elements, dtype=x.dtype, device=x.device)
        return self._buffer
