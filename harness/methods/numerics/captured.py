"""A function of many small steps, recorded once as a CUDA graph and replayed: a launch each instead of thousands.

On a CPU it is just called. A graph is recorded for each combination of shapes; it works on buffers of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class _Recording:
    graph: "torch.cuda.CUDAGraph"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Captured:
    """`function` of tensors alone: no steps that depend on values, no host reads. It may change its inputs.

    What a call returns holds until the next call. Inputs may or may not have changed afterwards. Where a recording
    fails, the function is called step by step from then on, and `log` is told why.
    """

    def __init__(self, function: Function, log: Callable[[str], None]) -> None:
        self._function = function
        self._log = log
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self._works = True

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not (self._works and inputs[0].is_cuda):
            return self._function(*inputs)
        shapes = tuple(given.shape for given in inputs)
        if shapes not in self._recordings:
            try:
                with torch.cuda.device(inputs[0].device):
                    self._recordings[shapes] = self._record(inputs)
            except RuntimeError as failure:
                self._works = False
                self._log(f"a CUDA graph could not be recorded, so its steps run one by one: {failure}")
                return self._function(*inputs)
        recording = self._recordings[shapes]
        for buffer, given in zip(recording.inputs, inputs, strict=True):
            buffer.copy_(given)
        recording.graph.replay()
        return recording.outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        buffers = tuple(given.clone(memory_format=torch.contiguous_format) for given in inputs)
        current = torch.cuda.current_stream()
        aside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            self._function(*buffers)  # libraries allocate their workspaces at their first call, which a graph cannot do
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._function(*buffers)
        return _Recording(graph, buffers, outputs)
