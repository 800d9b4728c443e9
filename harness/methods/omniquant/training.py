"""Training one block (OmniQuant, section 3.1): quantized, it learns to put out what the uncompressed one does."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block
from harness.errors import WorkerError
from harness.methods.numerics.rounding import RoundingGrid
from harness.methods.omniquant.clipping import ClippedWeight, Factors
from harness.methods.omniquant.rounding import Kernels
from harness.methods.omniquant.transform import EquivalentTransformation
from harness.methods.skeleton.stream import ActivationStream
from harness.quantization.weight import QuantizedWeight


@dataclass(frozen=True)
class Schedule:
    """`dtype` is what the block computes in while it is trained; what is learned is float32 throughout."""

    epochs: int
    clipping_rate: float
    transformation_rate: float
    dtype: torch.dtype


@dataclass(frozen=True)
class Targets:
    """What the block should put out for each batch of `inputs`. The inputs come from the compressed predecessors.

    `dense`: what the uncompressed model has there. `same_inputs`: what the uncompressed block makes of the inputs.
    """

    inputs: ActivationStream
    dense: ActivationStream
    same_inputs: ActivationStream | None = None

    def loss(self, outputs: Tensor, batch: int) -> Tensor:
        """Mean squared error in float32 or better, the sum of both where there are two targets."""
        loss = squared_error(outputs, self.dense.inputs(batch))
        if self.same_inputs is not None:
            loss = loss + squared_error(outputs, self.same_inputs.inputs(batch))
        return loss


def squared_error(outputs: Tensor, target: Tensor) -> Tensor:
    """The mean over all values, float32 or better."""
    exact = torch.promote_types(outputs.dtype, torch.float32)
    return (outputs.to(exact) - target.to(exact)).square().mean()


class QuantizedBlock:
    """A block as it would be with its weights rounded and transformed; its own parameters stay as they are."""

    def __init__(
        self,
        block: Block,
        grid: RoundingGrid,
        kernels: Kernels,
        *,
        clipping: bool,
        transformation: EquivalentTransformation | None,
        dtype: torch.dtype,
    ) -> None:
        self._block = block
        self._dtype = dtype
        self._transformation = transformation
        self._weights = {
            linear.name.removeprefix(f"{block.name}."): ClippedWeight(
                linear.module.weight, grid, learn=clipping, kernels=kernels
            )
            for linear in block.linears
        }
        rounded = {f"{name}.weight" for name in self._weights}
        self._unchanged = {
            name: parameter.detach().to(dtype)
            for name, parameter in block.module.named_parameters()
            if name not in rounded
        }

    def learned(self, schedule: Schedule) -> list[dict[str, Any]]:
        """Parameter groups of an optimizer, each with its learning rate."""
        bounds = [bound for weight in self._weights.values() for bound in weight.parameters()]
        transformation = [] if self._transformation is None else list(self._transformation.parameters())
        groups = (
            {"params": transformation, "lr": schedule.transformation_rate},
            {"params": bounds, "lr": schedule.clipping_rate},
        )
        return [group for group in groups if group["params"]]

    def bound(self) -> None:
        """Keep what was learned within its limits."""
        if self._transformation is not None:
            self._transformation.bound()

    def forward(self, stream: ActivationStream, batch: int) -> Tensor:
        """The block's outputs for one batch of the stream."""
        factors, replaced = self._transformed()
        parameters = self._unchanged | {name: value.to(self._dtype) for name, value in replaced.items()}
        parameters |= {
            f"{name}.weight": weight.round(factors[name], self._dtype) for name, weight in self._weights.items()
        }
        substituted = replace(self._block, module=_Substituted(self._block.module, parameters))
        return stream.forward_of(substituted, batch, stream.inputs(batch).to(self._dtype))

    @torch.no_grad()
    def fold(self) -> dict[str, QuantizedWeight]:
        """Put all that was learned into the block's parameters but the weights; those are returned, by full names."""
        factors, replaced = self._transformed()
        parameters = dict(self._block.module.named_parameters())
        for name, value in replaced.items():
            parameters[name].copy_(value)
        return {f"{self._block.name}.{name}": weight.quantize(factors[name]) for name, weight in self._weights.items()}

    def _transformed(self) -> tuple[dict[str, Factors], dict[str, Tensor]]:
        if self._transformation is None:
            return dict.fromkeys(self._weights, Factors()), {}
        transformed = self._transformation.apply()
        return transformed.factors, transformed.replaced


class _Substituted(nn.Module):
    """A module that computes with other parameters than its own."""

    def __init__(self, inner: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self._inner = inner
        self._substitutes = parameters

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return torch.func.functional_call(self._inner, self._substitutes, arguments, keywords)


def train(block: Block, quantized: QuantizedBlock, targets: Targets, schedule: Schedule) -> None:
    """Learn with AdamW, batch after batch in their order (the authors' code has no weight decay and does not shuffle).

    Raises:
        WorkerError: the loss is not finite any more.
    """
    groups = quantized.learned(schedule)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(requires_grad=True)
    device = targets.inputs.device
    optimizer = torch.optim.AdamW(groups, weight_decay=0, fused=device.type == "cuda")
    scaler = torch.amp.GradScaler(device.type, enabled=schedule.dtype is torch.float16)
    for epoch in range(schedule.epochs):
        total = torch.zeros((), device=device)
        for batch in range(len(targets.inputs.hidden)):
            with torch.enable_grad():
                loss = targets.loss(quantized.forward(targets.inputs, batch), batch)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            quantized.bound()
            total += loss.detach()
        if not bool(torch.isfinite(total)):
            raise WorkerError(
                f"training {block.name} diverged: the loss is {float(total):g} in epoch {epoch + 1}",
                hint="lower lwc_lr and let_lr, or set precision to float32",
            )


@torch.no_grad()
def mean_error(quantized: QuantizedBlock, targets: Targets) -> float:
    """Mean squared distance, over the batches, to what the uncompressed model has behind the block."""
    errors = [
        squared_error(quantized.forward(targets.inputs, batch), targets.dense.inputs(batch))
        for batch in range(len(targets.inputs.hidden))
    ]
    return float(torch.stack(errors).mean())
