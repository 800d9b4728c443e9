"""Speeds against what the device was measured to do: bytes and operations that each token takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from harness.architectures.shape import Shape, read_shape
from harness.backends.base import ServedWeights
from harness.contract import BenchmarkParameters, Bound, CheckpointDescriptor, Dtype, Speed
from harness.errors import Unsupported
from harness.models.loading import TORCH_DTYPES
from harness.physics import BYTES_PER_SECOND, OPERATIONS_PER_SECOND, hold, product_rate, read_rate


@dataclass(frozen=True)
class SpeedBounds:
    """What a model's speeds are held against on `device`, or on each that is like it. `shape` None: its dimensions are
    not known."""

    device: torch.device
    parameters: BenchmarkParameters
    weights: ServedWeights
    dtype: Dtype
    shape: Shape | None
    density: float
    window: int | None

    @classmethod
    def of(
        cls,
        device: torch.device,
        parameters: BenchmarkParameters,
        weights: ServedWeights,
        dtype: Dtype,
        descriptor: CheckpointDescriptor,
        config: Mapping[str, Any],
    ) -> "SpeedBounds":
        try:
            shape = read_shape(config)
        except Unsupported:
            shape = None
        density = 1.0 if descriptor.sparsity is None else 1.0 - descriptor.sparsity.measured
        return cls(device, parameters, weights, dtype, shape, density, config.get("sliding_window"))

    def hold(self, speed: Speed) -> Speed:
        """The speed with its bounds.

        Raises:
            Implausible: it is beyond one of them.
        """
        return speed.model_copy(update={"bounds": (self._decoding(speed), *self._prefill(speed))})

    @property
    def _on_each(self) -> str:
        """A model that is split has each GPU read and multiply its part."""
        gpus = self.parameters.tensor_parallel
        return f" on each of {gpus} GPUs" if gpus > 1 else ""

    def _decoding(self, speed: Speed) -> Bound:
        """The weights are read once for the whole batch, keys and values for each sequence of it."""
        positions = self.parameters.prompt_tokens + self.parameters.generate_tokens // 2
        positions = min(positions, self.window or positions)
        size_bytes = self.weights.token_bytes
        if self.shape is not None:
            value_bytes = TORCH_DTYPES[self.dtype].itemsize
            size_bytes += self.shape.kv_cache_bytes(
                tokens=positions, batch_size=speed.batch_size, value_bytes=value_bytes
            )
        steps_per_second = speed.decode_tokens_per_second / speed.batch_size
        size_bytes //= self.parameters.tensor_parallel
        return hold(
            f"reading weights, keys and values while decoding at batch {speed.batch_size}{self._on_each}",
            size_bytes * steps_per_second,
            BYTES_PER_SECOND,
            [partial(read_rate, self.device, size_bytes)],
        )

    def _prefill(self, speed: Speed) -> tuple[Bound, ...]:
        """The decoder's products with weights that are not zero, which no library can leave out."""
        if self.shape is None or not self.weights.products:
            return ()
        operations = 2 * self.shape.decoder_weights * self.density / self.parameters.tensor_parallel
        return (
            hold(
                f"multiplying in the prefill at batch {speed.batch_size}{self._on_each}",
                operations * speed.prefill_tokens_per_second,
                OPERATIONS_PER_SECOND,
                [partial(product_rate, self.device, dtype) for dtype in self.weights.products],
            ),
        )
